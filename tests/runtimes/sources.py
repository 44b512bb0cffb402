"""Task files for the conformance suite, the same for each runtime as far as it can be."""

ECHO = {
    "python": "def handler(event): return event",
    "python_async": "async def handler(event): return event",
    "node": "module.exports = (event) => event",
    "exec": "#!/bin/sh\nexec cat",
}

CONTEXT = """
{0} handler(event, context):
    return [context.task, context.node, context.instance, context.invocation_id, context.attempt, context.remaining()]
"""
CONTEXT_NODE = """
exports.handler = (event, context) => {
  const { task, node, instance, invocationId, attempt } = context;
  return [task, node, instance, invocationId, attempt, context.remaining() / 1000];
};
"""
CONTEXT_EXEC = """#!/usr/bin/env python3
import json, os, time
names = ["TASK", "NODE", "INSTANCE", "INVOCATION_ID"]
print(json.dumps([*(os.environ["GRID_" + name] for name in names), int(os.environ["GRID_ATTEMPT"]),
    float(os.environ["GRID_DEADLINE"]) - time.time()]))
"""
FAILS = """
import asyncio
{0} handler(event):
    if event == "fail":
        raise ValueError("cannot take " + event)
    return event
"""
FAILS_NODE = """
module.exports = (event) => {
  if (event === 'fail') throw new RangeError('cannot take ' + event);
  return event;
};
"""
FAILS_EXEC = """#!/bin/sh
event=$(cat)
if [ "$event" = '"fail"' ]; then echo "cannot take fail" >&2; exit 3; fi
echo "$event"
"""
MEET = """
import threading
inside = threading.Barrier(3)
def handler(event):
    inside.wait(15)
    return event
"""
MEET_ASYNC = """
import asyncio
inside, met = 0, asyncio.Event()
async def handler(event):
    global inside
    inside += 1
    if inside == 3:
        met.set()
    await met.wait()
    return event
"""
MEET_NODE = """
let inside = [];
exports.handler = (event, callback) => {
  inside.push(() => callback(null, event));
  if (inside.length === 3) inside.forEach((go) => go());
};
"""
MEET_EXEC = """#!/usr/bin/env python3
import os, sys, time
directory = "/tmp/meet-" + os.environ["GRID_INSTANCE"]
os.makedirs(directory, exist_ok=True)
open(f"{directory}/{os.getpid()}", "w").close()
end = time.monotonic() + 15
while len(os.listdir(directory)) < 3:
    assert time.monotonic() < end
    time.sleep(0.01)
print(sys.stdin.read())
"""
ALONE_ASYNC = """
import asyncio
inside = 0
async def handler(event):
    global inside
    inside += 1
    await asyncio.sleep(0.02)
    inside -= 1
    return [event, inside]
"""
ALONE_NODE = """
let inside = 0;
exports.handler = (event, callback) => {
  inside += 1;
  setTimeout(() => { inside -= 1; callback(null, [event, inside]); }, 20);
};
"""
ALONE_EXEC = """#!/usr/bin/env python3
import json, os, sys, time
place = "/tmp/alone-" + os.environ["GRID_INSTANCE"]
os.mkdir(place)
time.sleep(0.02)
os.rmdir(place)
print(json.dumps([json.load(sys.stdin), 0]))
"""
STARTED = """
import {2}
started = []
{0} handler(event):
    started.append(event)
    if event == "long":
        {1}
    return started
"""
STARTED_NODE = """
const started = [];
exports.handler = async (event) => {
  started.push(event);
  if (event === 'long') await new Promise((resolve) => { setTimeout(resolve, 300); });
  return started;
};
"""
STARTED_EXEC = """#!/bin/sh
read event
echo "$event" >>/tmp/started-$GRID_INSTANCE
if [ "$event" = '"long"' ]; then sleep 0.3; fi
echo "[$(paste -sd, /tmp/started-$GRID_INSTANCE)]"
"""
HANGS_ASYNC = "import asyncio\nasync def handler(event):\n    return event or await asyncio.Event().wait()"
HANGS_NODE = "exports.handler = async (event) => event ?? new Promise(() => {});"
HANGS_EXEC = '#!/bin/sh\nread event\nif [ "$event" = null ]; then sleep 1000 & sleep 1000; fi\necho "$event"'
PRINTS = "import sys\n{0} handler(event):\n    print('out of', event)\n    print('to stderr', file=sys.stderr)\n"
PRINTS_NODE = "exports.handler = (event) => { console.log('out of', event); console.error('to stderr'); };"
LARGE_EXEC = "#!/bin/sh\nyes | head -c 7000000"
DIES = "import os\n{0} handler(event):\n    os._exit(7)\n"
HTTP = """#!/usr/bin/env python3
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

{0}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, text = answer(event, self.headers)
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["TASK_PORT"])), Handler).serve_forever()
"""


def http(*lines: str, before: str = "") -> str:
    """A program that serves HTTP: the body of `answer(event, headers)`, which returns a status and a text."""
    return HTTP.format("\n".join([before, "def answer(event, headers):", *(f"    {line}" for line in lines)]))


ECHO["http"] = http("return 200, json.dumps(event)")
CONTEXT_HTTP = http(
    "return 200, json.dumps([headers['X-Grid-Task'], os.environ['GRID_NODE'], os.environ['GRID_INSTANCE'],",
    "    headers['X-Grid-Invocation-Id'], int(headers['X-Grid-Attempt']),",
    "    float(headers['X-Grid-Deadline']) - time.time()])",
)
FAILS_HTTP = http("return (500, 'cannot take fail') if event == 'fail' else (200, json.dumps(event))")
MEET_HTTP = http("inside.wait(15)", "return 200, json.dumps(event)", before="inside = threading.Barrier(3)")
ALONE_HTTP = http(
    "global inside",
    "inside += 1",
    "time.sleep(0.02)",
    "inside -= 1",
    "return 200, json.dumps([event, inside])",
    before="inside = 0",
)
STARTED_HTTP = http(
    "started.append(event)",
    "if event == 'long':",
    "    time.sleep(0.3)",
    "return 200, json.dumps(started)",
    before="started = []",
)
HANGS_HTTP = http("if event is None:", "    threading.Event().wait()", "return 200, json.dumps(event)")
PRINTS_HTTP = http("print('out of', event)", "print('to stderr', file=sys.stderr)", "return 200, ''")
NO_JSON_HTTP = http("return 200, '{1, 2}'")
LARGE_HTTP = http("return 200, 'x' * 7_000_000")
DIES_HTTP = http("os._exit(7)")

YIELDS = """
ended = []
{0} handler(event):
    number = 0
    try:
        while event == "forever" or number < (event or 0):
            yield number
            number += 1
        if event == 3:
            raise ValueError("cannot take 3")
    finally:
        ended.append(event)
    if event is None:
        yield ended
"""
YIELDS_NODE = """
const ended = [];
module.exports = async function* (event) {
  try {
    for (let number = 0; event === 'forever' || number < (event ?? 0); number += 1) yield number;
    if (event === 3) throw new RangeError('cannot take 3');
  } finally {
    ended.push(event);
  }
  if (event === null) yield ended;
};
"""
YIELDS_EXEC = """#!/usr/bin/env python3
import json, sys
event, number = json.load(sys.stdin), 0
while event == "forever" or number < (event or 0):
    print(number, flush=True)
    number += 1
if event == 3:
    sys.exit("cannot take 3")
"""
YIELDS_LARGE = "{0} handler(event):\n    while True:\n        yield 'x' * 1_000_000\n"
YIELDS_LARGE_NODE = "exports.handler = function* () { for (;;) yield 'x'.repeat(1_000_000); };"

ONWARD = """
import grid

{0} handler(event):
    made = {1}grid.invoke{2}("other", event)
    return [made, {1}grid.publish{3}("c.d", event), grid.context.topic]
"""
ONWARD_NODE = """
const { invoke, publish, context } = require('grid');

module.exports = async (event) => [await invoke('other', event), await publish('c.d', event), context.topic];
"""
