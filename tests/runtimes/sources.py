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
