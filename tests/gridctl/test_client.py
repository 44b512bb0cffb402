import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl import Grid
from gridctl.client import decode_result, encode_argument
from gridctl.connect import ClientEnd
from gridctl.links import Links
from gridctl.new import load_gridfile, new_gridfile
from gridnode.errors import (
    BodyInvalid,
    BodyTooLarge,
    CallTimeout,
    GridError,
    KeyReused,
    LedgerError,
    LinkClosed,
    NodeNotFound,
    NotAuthenticated,
    SignatureInvalid,
    TaskNotFound,
    TaskRaised,
    UsageError,
)
from gridnode.gridfile import Gridfile, render_secret
from gridnode.identity import Authority, authority_of
from gridnode.ledger import document_hash, encode_documents, sign_release
from gridnode.model import NodeId, Release
from tests.gridctl.conftest import RunningGrid

BOTH_LOOPS = True
AUTHORITY = authority_of(Gridfile("g", (), render_secret(b"s" * 32)))


async def test_a_call_runs_on_each_node_in_turn(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        outcomes = [await grid.call("echo", {"n": number}) for number in range(4)]
        assert [decode_result(outcome.body) for outcome in outcomes] == [{"n": number} for number in range(4)]
        async with asyncio.timeout(30):  # on a busy machine one of them may count as slow for a while
            while {outcome.name for outcome in outcomes} != {"node-1", "node-2"}:
                outcomes.append(await grid.call("echo", {}))
        assert all(outcome.node and outcome.instance and outcome.attempts == 1 for outcome in outcomes)
        assert all(0 < outcome.duration < 10 for outcome in outcomes)


async def test_a_call_can_be_sent_to_one_node(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        members = {member.record.name: member.record.id for member in await grid.nodes()}
        for name, node in members.items():
            for wanted in (name, node, node[:12]):
                assert (await grid.call("whoami", node=wanted)).node == node


async def test_an_idempotency_key(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        first, again = [await grid.call("echo", 1, idempotency_key="client 1") for _ in range(2)]
        assert (first.body, first.node) == (again.body, again.node)
        with pytest.raises(KeyReused):
            await grid.invoke("echo", 2, idempotency_key="client 1")
        for key in ("x" * 256, "\n", "schl\u00fcssel"):
            with pytest.raises(UsageError, match="printable"):
                await grid.invoke("echo", 1, idempotency_key=key)


async def test_many_calls_at_once_share_the_link(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        results = await asyncio.gather(*(grid.invoke("echo", number) for number in range(100)))
        assert results == list(range(100))


async def test_what_a_task_raises_is_raised_with_its_traceback(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        with pytest.raises(TaskRaised, match="TypeError: send a text") as caught:
            await grid.invoke("words", 42)
        assert caught.value.trace is not None
        assert "tasks/words.py" in caught.value.trace


async def test_errors_are_typed(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        with pytest.raises(TaskNotFound, match="did you mean words"):
            await grid.invoke("wrods")
        with pytest.raises(NodeNotFound):
            await grid.invoke("echo", node="node-9")
        with pytest.raises(BodyTooLarge):
            await grid.invoke("echo", "x" * 6 * 1024 * 1024)
        with pytest.raises(BodyInvalid):
            await grid.invoke("echo", object())
        with pytest.raises(UsageError):
            await grid.invoke("echo", timeout=0)
        with pytest.raises(CallTimeout):
            await grid.invoke("primes", {"below": 20_000_000}, timeout=0.02)
        assert await grid.invoke("echo", "still open") == "still open"


async def test_a_cancelled_call_is_given_up(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await grid.invoke("primes", {"below": 5_000_000})
        assert await grid.invoke("echo", 1) == 1


async def test_the_current_release_and_how_it_stands(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        release = await grid.release()
        assert release is not None
        assert (release.project, release.sequence >= 1) == ("hello", True)
        assert [task.name for task in release.tasks] == ["echo", "primes", "uptime", "whoami", "words"]
        for member in await grid.nodes():
            report = await grid.report(member.record.id)
            assert report.node == member.record.id
            assert report.status is not None
            assert report.status.root == release.root
        with pytest.raises(LedgerError):
            await grid.put_release(_losing_to(release, hello_grid.gridfile))


def _losing_to(release: Release, gridfile: Path) -> Release:
    """Another release of the same sequence, which the ledger's rule refuses."""
    key = authority_of(load_gridfile(gridfile)).deploy_key
    held = document_hash(sign_release(key, release))
    others = (msgspec.structs.replace(release, created=release.created + step) for step in range(1, 1000))
    return next(other for other in others if document_hash(sign_release(key, other)) > held)


async def test_a_closed_grid_says_so(hello_grid: RunningGrid) -> None:
    grid = await Grid.connect(hello_grid.gridfile)
    assert grid.record is not None
    assert grid.record.name == "node-1"
    await grid.close()
    with pytest.raises(LinkClosed):
        await grid.invoke("echo")
    with pytest.raises(LinkClosed):
        await grid.nodes()
    await grid.close()


async def test_another_grids_gridfile_is_not_let_in(hello_grid: RunningGrid, tmp_path: Path) -> None:
    other = new_gridfile(tmp_path, "other", seeds=[f"127.0.0.1:{port}" for port in hello_grid.ports])
    with pytest.raises(NotAuthenticated, match="not of this Gridfile's grid") as caught:
        await Grid.connect(other.path)
    assert caught.value.hint is not None


async def test_addresses_given_go_before_the_gridfiles_seeds(hello_grid: RunningGrid) -> None:
    async with Grid.connect(str(hello_grid.gridfile), [f"127.0.0.1:{hello_grid.ports[1]}"]) as grid:
        assert grid.record is not None
        assert grid.record.name == "node-2"
    with pytest.raises(UsageError, match="host:port"):
        await Grid.connect(hello_grid.gridfile, ["a:b:c"])


@pytest.mark.parametrize("value", [0, 1.5, "ü€", [1, None], {"a": {"b": []}}, False, 10**30, "\ud800"])
def test_values_survive_their_json(value: object) -> None:
    assert decode_result(encode_argument(value)) == value


def test_none_is_no_body() -> None:
    assert encode_argument(None) == b""
    assert decode_result(b"") is None


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), b"bytes"])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(BodyInvalid):
        encode_argument(value)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_a_result_that_is_not_json_is_an_error(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        decode_result(body)


class OneAnswer:
    """A link that answers every op with these bytes."""

    address = None
    is_open = True

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def request(self, op: object, body: bytes = b"", *, name: str = "", timeout: float = 0) -> bytes:
        return self._body


def one_answer(body: bytes, authority: Authority) -> Grid:
    return Grid(Links((OneAnswer(body), ClientEnd()), None, (), 1), authority)  # type: ignore[arg-type]


async def test_a_node_cannot_make_up_a_release(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        release = await grid.release()
    assert release is not None
    authority = authority_of(load_gridfile(hello_grid.gridfile))
    forged = encode_documents([sign_release(b"f" * 32, release)])
    with pytest.raises(SignatureInvalid):
        await one_answer(forged, authority).release()


@given(st.binary(max_size=200))
async def test_garbage_from_a_node_is_a_typed_error(body: bytes) -> None:
    grid = one_answer(body, AUTHORITY)
    for ask in (grid.nodes, grid.release, lambda: grid.report(NodeId("a")), lambda: grid.missing_chunks([])):
        with contextlib.suppress(GridError):
            await ask()


async def test_a_name_that_no_task_can_have(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as client:
        with pytest.raises(TaskNotFound, match="at most 255 bytes"):
            await client.invoke("x" * 256)
