"""What is JavaScript's own; what all runtimes have in common is in conformance.py."""

import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gridnode import wire
from gridnode.model import NodeId
from gridnode.wire import Frame, Kind, Op
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import failure
from tests.sandbox.conformance import Line, Listener, Place

Serve = Callable[..., Awaitable[Line]]
pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine's PATH")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start the runtime for a source text, with other files of its project beside it: a line to it."""
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()

    async def start(source: str, file: str = "tasks/req.js", files: dict[str, str] | None = None) -> Line:
        spec = place.spec("", file=file, runtime="node")
        for name, text in {file: source, **(files or {})}.items():
            path = Path(spec.release_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        return await listener.line()

    async with AsyncExitStack() as listeners:
        yield start
    await sandbox.clean()
    place.remove()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("module.exports = (e) => e", {"req"}),
        ("module.exports = (e) => e; module.exports.other = () => 1", {"req", "req.other"}),
        ("exports.handler = () => 1; exports.get_ip = () => 2; exports._private = () => 3", {"req", "req.get_ip"}),
        ("exports.req = () => 1; exports.other = () => 2; exports.X = 1", {"req", "req.other"}),
        ("exports.one = () => 1; exports.two = () => 2", {"req.one", "req.two"}),
        ("exports.only = () => 1; exports.Thing = class {}", {"req", "req.only"}),
        ("exports.__esModule = true; exports.default = () => 1; exports.b = () => 2", {"req", "req.b"}),
    ],
)
async def test_handlers_of_a_file(serve: Serve, source: str, found: set[str]) -> None:
    line = await serve(source)
    assert {handler["name"] for handler in line.hello["handlers"]} == found
    assert {handler["concurrency"] for handler in line.hello["handlers"]} == {64}


@pytest.mark.parametrize(
    ("file", "files"), [("tasks/req.mjs", {}), ("tasks/req.js", {"package.json": '{"type": "module"}'})]
)
async def test_modules(serve: Serve, file: str, files: dict[str, str]) -> None:
    source = "import { x } from '../lib.mjs';\nexport default (event) => [event, x];\nexport const other = () => x;\n"
    line = await serve(source, file, files | {"lib.mjs": "export const x = 7;"})
    assert await line.ask("req", 1) == [1, 7]
    assert await line.ask("req.other") == 7


async def test_packages_of_the_project_are_found(serve: Serve) -> None:
    files = {"node_modules/packed/index.js": "module.exports = 'packed'", "lib.js": "exports.x = 'lib'"}
    line = await serve("exports.handler = () => [require('packed'), require('../lib').x]", files=files)
    assert await line.ask("req") == ["packed", "lib"]


SHAPES = """
exports.none = function () { return arguments.length; };
exports.one = (event) => event;
exports.promised = (event) => Promise.resolve(event);
exports.called = (event, cb) => setTimeout(cb, 1, null, event);
exports.data_cb = (data, done) => { done(null, data); return 'ignored'; };
exports.context = (event, context) => context.task;
exports.ctx = ({ a, b }, ctx) => [a, b, ctx.task];
exports.three = (event, context, cb) => { cb(null, [event, context.task]); };
exports.async_two = async (event, context) => context.task;
exports.async_three = async (event, context, cb) => [context.task, typeof cb];
exports.async_cb = async (event, cb) => { setTimeout(cb, 1, null, event); };
exports.rejects_cb = async (event, callback) => { throw new TypeError('async'); };
exports.then_cb = (event, cb) => Promise.resolve().then(() => cb(null, event));
exports.twice = (event, cb) => { cb(null, 1); cb(new Error('late')); };
exports.undefined = () => {};
"""


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("one", 5),
        ("promised", 5),
        ("called", 5),
        ("data_cb", 5),
        ("context", "req.context"),
        ("three", [5, "req.three"]),
        ("async_two", "req.async_two"),
        ("async_three", ["req.async_three", "function"]),
        ("async_cb", 5),
        ("then_cb", 5),
        ("twice", 1),
        ("undefined", None),
    ],
)
async def test_every_shape_of_a_handler(serve: Serve, name: str, result: object) -> None:
    line = await serve(SHAPES)
    assert await line.ask(f"req.{name}", 5) == result


async def test_a_first_parameter_may_be_taken_apart(serve: Serve) -> None:
    line = await serve(SHAPES)
    assert await line.ask("req.ctx", {"a": 1, "b": 2}) == [1, 2, "req.ctx"]
    assert (await failure(line, "req.rejects_cb")).message == "TypeError: async"


ERRORS = """
exports.throws = () => { throw new RangeError('thrown'); };
exports.rejects = async () => { throw new Error('rejected'); };
exports.passes = (event, cb) => cb(new Error('passed'));
exports.text = (event, cb) => cb('only a text');
exports.object = () => { throw { reason: 1 }; };
exports.nothing = async () => { throw undefined; };
exports.hostile = () => { throw Object.defineProperty(new Error(), 'message', { get() { throw 1; } }); };
exports.circular = () => { const x = []; x.push(x); return x; };
exports.symbol = () => Symbol('x');
exports.func = () => () => 1;
exports.json = () => ({ toJSON() { throw new Error('in toJSON'); } });
exports.long = () => { throw new Error('x'.repeat(100_000)); };
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("throws", "RangeError: thrown"),
        ("rejects", "Error: rejected"),
        ("passes", "Error: passed"),
        ("text", "only a text"),
        ("object", 'thrown: {"reason":1}'),
        ("nothing", "thrown: undefined"),
        ("hostile", "(an error without text)"),
        ("circular", "the result is not JSON: TypeError: Converting circular structure to JSON"),
        ("symbol", "the result is a symbol, not JSON"),
        ("func", "the result is a function, not JSON"),
        ("json", "the result is not JSON: Error: in toJSON"),
        ("long", "Error: xxx"),
    ],
)
async def test_errors_are_replies_and_the_instance_goes_on(serve: Serve, name: str, said: str) -> None:
    line = await serve(ERRORS)
    for _ in range(2):
        error = await failure(line, f"req.{name}")
        assert error.code == "task_raised"
        assert error.message.startswith(said)
        assert len(error.message) <= 2000
        assert "runtimes" not in str(error.trace)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nrequire('x_y_z')", "Error: Cannot find module 'x_y_z'"),
        ("exports.handler = (", "SyntaxError: Unexpected end of input (tasks/req.js line 1)"),
        ("\nthrow new Error('early')", "Error: early (tasks/req.js line 2)"),
        ("throw 'text'", "text (tasks/req.js)"),
        ("require('../lib')", "ReferenceError: nope is not defined (lib.js line 2)"),
        ("exports.X = 1", "tasks/req.js exports 0 functions; 1 to 128 can be served"),
    ],
)
async def test_a_file_that_does_not_load(serve: Serve, source: str, message: str) -> None:
    line = await serve(source, files={"lib.js": "\nnope\n"})
    assert line.hello["handlers"] == []
    assert line.hello["error"]["message"].startswith(message)
    assert len(json.dumps(line.hello).encode()) < wire.MAX_HELLO
    line.close()


async def test_many_calls_large_bodies_and_frames_in_pieces(serve: Serve) -> None:
    line = await serve("module.exports = (event) => event")
    ids = [line.call("req", n) for n in range(1000)]
    found = {frame.call_id: json.loads(frame.body) for frame in [await line.receive() for _ in ids]}
    assert found == {call_id: n for n, call_id in enumerate(ids)}
    for byte in wire.encode(Frame(Kind.CALL, 5000, Op.INVOKE, name="req", body=b'"piece"')):
        line._writer.write(bytes([byte]))
        await line._writer.drain()
    assert line.result(await line.receive(), 5000) == "piece"
    assert await line.ask("req", None, b"garbage") is None


async def test_a_cancelled_call_can_listen_for_it(serve: Serve) -> None:
    source = """
    let aborted = 0;
    exports.waits = (event, context, cb) => { context.signal.addEventListener('abort', () => { aborted += 1; }); };
    exports.handler = () => aborted;
    """
    line = await serve(source)
    call = line.call("req.waits")
    line.send(Frame(Kind.CANCEL, call))
    assert (await line.receive()).flags & wire.FLAG_ERROR
    assert await line.ask("req") == 1
