"""Which node answers first, and what is said when none does."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridctl import connect as module
from gridctl.connect import ClientEnd, connect
from gridctl.new import load_gridfile, new_gridfile
from gridnode import wire
from gridnode.errors import BodyInvalid, FrameInvalid, GridError, LinkClosed, NotAuthenticated
from gridnode.identity import Credentials, authority_of, issue_leaf, mint_card, operator_credentials
from gridnode.link import LinkLimits
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context, peer_identity, server_context
from gridnode.messages import Hello, encode_hello
from gridnode.model import Address, NodeRecord
from gridnode.wire import Frame
from tests.gridctl.conftest import free_port

BOTH_LOOPS = True


@pytest.fixture(scope="module")
def gridfile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_gridfile(tmp_path_factory.mktemp("grid"), "g").path


def operator(gridfile: Path) -> Credentials:
    return operator_credentials(authority_of(load_gridfile(gridfile)), time.time(), b"o" * 32)


def node(gridfile: Path, seed: bytes = b"n" * 32) -> Credentials:
    card = mint_card(authority_of(load_gridfile(gridfile)), "h", time.time(), 3600, b"e" * 32)
    return issue_leaf(card, seed, time.time())


class ScriptedEnd:
    """A node that says this hello and nothing else."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello

    def hello(self, link: Link) -> bytes:
        return self._hello

    def opened(self, link: Link, body: bytes) -> None: ...
    def called(self, link: Link, frame: Frame) -> None: ...
    def heard(self, link: Link, frame: Frame) -> None: ...
    def closed(self, link: Link, error: GridError | None) -> None: ...


def hello_of(credentials: Credentials, version: int = wire.VERSION) -> bytes:
    return encode_hello(Hello(version, NodeRecord(credentials.node, "n1", 1, 0, (), "0", 0)))


@asynccontextmanager
async def listening(credentials: Credentials, hello: bytes) -> AsyncIterator[Address]:
    def link() -> Link:
        return Link(ScriptedEnd(hello), LinkLimits(), lambda it: peer_identity(it.get_extra_info("ssl_object")))

    context = server_context(credentials)
    server = await asyncio.get_running_loop().create_server(link, "127.0.0.1", 0, ssl=context)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


@asynccontextmanager
async def silent() -> AsyncIterator[Address]:
    """Accepts and says nothing."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest.fixture
def context(gridfile: Path) -> ssl.SSLContext:
    return client_context(operator(gridfile))


async def closed(link: Link) -> None:
    link.close()
    async with asyncio.timeout(5):
        await link.wait_closed()


async def test_the_first_that_answers_is_taken(gridfile: Path, context: ssl.SSLContext) -> None:
    member = node(gridfile)
    async with silent() as mute, listening(member, hello_of(member)) as good:
        started = asyncio.get_running_loop().time()
        link, end = await connect([mute, Address("127.0.0.1", free_port()), good], context)
        assert asyncio.get_running_loop().time() - started < 2
        assert link.address == good
        assert end.record is not None
        assert end.record.id == member.node
        await closed(link)


async def test_a_name_is_resolved(gridfile: Path, context: ssl.SSLContext) -> None:
    member = node(gridfile)
    async with listening(member, hello_of(member)) as good:
        link, _ = await connect([Address("localhost", good.port)], context)
        await closed(link)


async def test_nobody_there_names_every_address(context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    nobody = Address("127.0.0.1", free_port())
    unknown = Address("no-such-host.invalid", 7400)
    async with silent() as mute:
        with pytest.raises(LinkClosed) as caught:
            await connect([nobody, mute, unknown], context)
    for part in (f"{nobody}: connection refused", f"{mute}: no answer within 0.5 s", str(unknown)):
        assert part in caught.value.message
    assert caught.value.hint is not None


async def test_a_long_list_is_cut(context: ssl.SSLContext) -> None:
    port = free_port()
    with pytest.raises(LinkClosed, match="and 20 more"):
        await connect([Address("127.0.0.1", port)] * 30, context)


async def test_no_address_at_all(context: ssl.SSLContext) -> None:
    with pytest.raises(LinkClosed, match="no address"):
        await connect([], context)


async def test_a_node_of_another_grid_is_not_trusted(context: ssl.SSLContext, tmp_path: Path) -> None:
    other = node(new_gridfile(tmp_path, "other").path)
    async with listening(other, hello_of(other)) as address:
        with pytest.raises(NotAuthenticated, match="not of this Gridfile's grid"):
            await connect([address, Address("127.0.0.1", free_port())], context)


async def test_a_node_that_refuses_us_is_told_from_silence(gridfile: Path, tmp_path: Path) -> None:
    member = node(gridfile)
    stranger = operator(new_gridfile(tmp_path, "other").path)
    ours = operator(gridfile)
    mixed = Credentials(stranger.node, stranger.role, stranger.issuer, stranger.key, stranger.chain, ours.ca)
    async with listening(member, hello_of(member)) as address:
        with pytest.raises(NotAuthenticated, match="does not accept"):
            await connect([address], client_context(mixed))


async def test_an_operator_does_not_pass_for_a_node(gridfile: Path, context: ssl.SSLContext) -> None:
    imposter = operator(gridfile)
    async with listening(imposter, hello_of(imposter)) as address:
        with pytest.raises(NotAuthenticated):
            await connect([address], context)


@pytest.mark.parametrize("hello", [b"", b"{", b'{"version":99}', b"\xff" * 100])
async def test_a_bad_hello_is_no_node(gridfile: Path, context: ssl.SSLContext, hello: bytes) -> None:
    async with listening(node(gridfile), hello) as address:
        with pytest.raises((LinkClosed, FrameInvalid, BodyInvalid)):
            await connect([address], context)


def test_the_client_end_refuses_calls() -> None:
    end = ClientEnd()
    with pytest.raises(GridError):
        end.called(None, Frame(wire.Kind.CALL, 1))  # type: ignore[arg-type]
    end.heard(None, Frame(wire.Kind.EVENT, 1))  # type: ignore[arg-type]
