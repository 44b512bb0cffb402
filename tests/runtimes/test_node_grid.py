"""`grid` inside a JavaScript task file: the runtime in a child process, the test is its node."""

import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gridnode import wire
from gridnode.errors import BodyTooLarge, CallTimeout, Forbidden, GridError, TaskRaised
from gridnode.model import NodeId
from gridnode.wire import Frame, Kind, Op
from tests.fakes.process_sandbox import ProcessSandbox
from tests.sandbox.conformance import Line, Listener, Place

Serve = Callable[..., Awaitable[Line]]
pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine's PATH")
COMMON = ("tasks/req.js", "const grid = require('grid'); const { invoke, publish, context, log } = grid;\n")
MODULE = ("tasks/req.mjs", "import grid, { invoke, publish, context, log } from 'grid';\n")
TYPED = ("tasks/req.js", MODULE[1])
LISTENERS: dict[Line, Listener] = {}
FORMS = [
    pytest.param(*COMMON, "module.exports = ", {}, id="commonjs"),
    pytest.param(*MODULE, "export default ", {}, id="mjs"),
    pytest.param(*TYPED, "export default ", {"package.json": '{"type": "module"}'}, id="typed"),
]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()

    async def start(source: str, file: str = COMMON[0], files: dict[str, str] | None = None) -> Line:
        spec = place.spec("", file=file, runtime="node")
        for name, text in {file: source, **(files or {})}.items():
            path = Path(spec.release_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        line = await listener.line()
        LISTENERS[line] = listener
        return line

    async with AsyncExitStack() as listeners:
        yield start
    await sandbox.clean()
    place.remove()
    LISTENERS.clear()


async def nested(line: Line, parent: int, op: int = Op.INVOKE) -> Frame:
    """The next frame, which must be a call on behalf of `parent`."""
    frame = await line.receive()
    assert (frame.kind, frame.op, json.loads(frame.meta)) == (Kind.CALL, op, {"parent": parent})
    return frame


def answer(line: Line, frame: Frame, result: object) -> None:
    failed = isinstance(result, GridError)
    body = wire.encode_error(result) if isinstance(result, GridError) else json.dumps(result).encode()
    line.send(Frame(Kind.REPLY, frame.call_id, 0, wire.FLAG_ERROR if failed else 0, 0, "", b"", body))


@pytest.mark.parametrize(("file", "head", "export", "files"), FORMS)
async def test_a_task_calls_a_task_and_publishes(
    serve: Serve, file: str, head: str, export: str, files: dict[str, str]
) -> None:
    body = "async (event) => [await invoke('wörds', {n: event}, {timeout: 2500}), await publish('a.b', 'é')];\n"
    line = await serve(head + export + body, file, files)
    call_id = line.call("req", 7)
    frame = await nested(line, call_id)
    assert (frame.name, json.loads(frame.body), frame.deadline_ms) == ("wörds", {"n": 7}, 2500)
    answer(line, frame, ["é"])
    event = await nested(line, call_id, Op.PUBLISH)
    assert (event.name, json.loads(event.body), event.deadline_ms) == ("a.b", "é", 0)
    answer(line, event, 3)
    assert line.result(await line.receive(), call_id) == [["é"], 3]


async def test_without_argument_and_timeout_nothing_is_sent_of_them(serve: Serve) -> None:
    line = await serve(COMMON[1] + "module.exports = () => invoke('words');")
    call_id = line.call("req")
    frame = await nested(line, call_id)
    assert (frame.body, frame.deadline_ms) == (b"", 0)
    answer(line, frame, None)
    assert line.result(await line.receive(), call_id) is None


async def test_calls_go_on_side_by_side_each_with_its_own_context(serve: Serve) -> None:
    source = (
        "module.exports = async (e) => [await invoke('other', e), context.task, context.invocationId, context.topic]"
    )
    line = await serve(COMMON[1] + source)
    ids = [line.call("req", n, meta=json.dumps({"id": f"i{n}", "topic": f"t.{n}"}).encode()) for n in range(5)]
    frames = [await nested(line, one) for one in ids]
    for frame in reversed(frames):
        answer(line, frame, json.loads(frame.body) * 10)
    replies = {frame.call_id: frame for frame in [await line.receive() for _ in ids]}
    found = [line.result(replies[one], one) for one in ids]
    assert found == [[n * 10, "req", f"i{n}", f"t.{n}"] for n in range(5)]


async def test_errors_are_typed_and_carry_the_remote_stack(serve: Serve) -> None:
    source = """
    module.exports = async (event) => {
      try { return await invoke('other'); }
      catch (e) { return [e.constructor.name, e instanceof grid.TaskError, e.code, e.message, e.cause?.stack, e.hint]; }
    };
    module.exports.uncaught = () => invoke('other');
    """
    line = await serve(COMMON[1] + source)

    async def told(given: GridError) -> object:
        call_id = line.call("req")
        answer(line, await nested(line, call_id), given)
        return line.result(await line.receive(), call_id)

    assert await told(TaskRaised("boom", trace="deep")) == ["TaskRaised", True, "task_raised", "boom", "deep", None]
    assert await told(CallTimeout("late")) == ["CallTimeout", True, "timeout", "late", None, None]
    assert await told(Forbidden("no", hint="h")) == ["Forbidden", True, "forbidden", "no", None, "h"]
    assert await told(GridError("odd")) == ["TaskError", True, "error", "odd", None, None]
    call_id = line.call("req.uncaught")
    answer(line, await nested(line, call_id), TaskRaised("boom", trace="deep"))
    with pytest.raises(TaskRaised, match="TaskRaised: boom"):
        line.result(await line.receive(), call_id)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"code": 1}', b"null"])
async def test_an_error_that_cannot_be_read_is_one(serve: Serve, body: bytes) -> None:
    line = await serve(COMMON[1] + "module.exports = () => invoke('other').catch((e) => e.message);")
    call_id = line.call("req")
    frame = await nested(line, call_id)
    line.send(Frame(Kind.REPLY, frame.call_id, 0, wire.FLAG_ERROR, 0, "", b"", body))
    assert line.result(await line.receive(), call_id) == "other: the call failed, and its error cannot be read"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("invoke('')", "is no task's name"),
        ("invoke(undefined)", "is no task's name"),
        ("invoke('x'.repeat(256))", "is no task's name"),
        ("publish(7)", "is no topic's name"),
        ("invoke('a', () => 1)", "a function is not JSON"),
        ("invoke('a', 10n)", "BigInt"),
        ("invoke('a', 1, {timeout: 0})", "makes no sense"),
        ("invoke('a', 1, {timeout: NaN})", "makes no sense"),
        ("invoke('a', 'x'.repeat(6 * 1024 * 1024))", "at most 6291456"),
    ],
)
async def test_what_cannot_be_sent_rejects_here(serve: Serve, code: str, said: str) -> None:
    line = await serve(COMMON[1] + f"module.exports = () => {code};")
    call_id = line.call("req")
    with pytest.raises((TaskRaised, BodyTooLarge)) as caught:
        line.result(await line.receive(), call_id)
    assert said in caught.value.message


async def test_nothing_works_while_no_call_is_served(serve: Serve) -> None:
    source = """
    const early = invoke('other').catch((e) => e.message);
    module.exports = () => early;
    """
    line = await serve(COMMON[1] + source)
    assert "only while a call is being served" in str(await line.ask("req"))


async def test_a_lost_connection_ends_what_waits(serve: Serve) -> None:
    source = "let code; module.exports = () => invoke('other').catch((e) => { code = e.code; });\n"
    line = await serve(COMMON[1] + source + "module.exports.seen = () => code;")
    await nested(line, line.call("req"))
    line.close()
    line = await LISTENERS[line].line()
    assert await line.ask("req.seen") == "link_closed"


@pytest.mark.parametrize(("file", "head", "export", "files"), FORMS)
async def test_a_projects_own_module_wins(
    serve: Serve, file: str, head: str, export: str, files: dict[str, str]
) -> None:
    own = {"node_modules/grid/index.js": "module.exports = { mine: 7 }"}
    first = head.split("\n")[0].split(";")[0].replace(", { invoke, publish, context, log }", "") + ";\n"
    line = await serve(f"{first}{export}() => grid.mine;\n", file, files | own)
    assert await line.ask("req") == 7


async def test_a_missing_package_is_told_as_such(serve: Serve) -> None:
    line = await serve("import x from 'gridd'; export default () => x;", MODULE[0])
    assert "gridd" in line.hello["error"]["message"]
