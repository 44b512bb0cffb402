import asyncio
import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gridnode import certificate
from gridnode.errors import CardInvalid, NotAuthenticated
from gridnode.gridfile import Gridfile, render_secret
from gridnode.identity import (
    DAY,
    Authority,
    Credentials,
    PeerIdentity,
    authority_of,
    issue_leaf,
    mint_card,
    node_id,
    operator_credentials,
    read_leaf,
)
from gridnode.link.tls import ALPN, client_context, peer_identity, server_context
from gridnode.model import Role

NOW = time.time()
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


def authority(byte: int) -> Authority:
    return authority_of(Gridfile("g", (), grid_password=render_secret(bytes([byte]) * 32)))


GRID, FOREIGN = authority(1), authority(2)
CARD = mint_card(GRID, "web1", NOW, 30 * DAY, b"1" * 32)
OTHER_CARD = mint_card(GRID, "web2", NOW, 30 * DAY, b"2" * 32)
NODE = issue_leaf(CARD, b"a" * 32, NOW)
OTHER = issue_leaf(OTHER_CARD, b"b" * 32, NOW)
OPERATOR = operator_credentials(GRID, NOW, b"o" * 32)


THIEF_KEY = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
THIEF = node_id(THIEF_KEY.public_key().public_bytes_raw())
OU, CN = NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME


def subject(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def thief(chain: str) -> Credentials:
    """The thief's key under a chain of the thief's making."""
    return replace(NODE, key=certificate.key_to_pem(THIEF_KEY).encode(), chain=chain.encode())


def certify(name: x509.Name, issuer: x509.Name, issuer_key: Ed25519PrivateKey, ca: bool = False) -> str:
    """PEM of a certificate for the thief's key, made without this project's own code."""
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    public, now = THIEF_KEY.public_key(), datetime.fromtimestamp(NOW, UTC)
    authority_key = x509.AuthorityKeyIdentifier(_key_id(issuer_key.public_key()), None, None)
    made = (
        x509.CertificateBuilder(issuer, name, public, 7, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier(_key_id(public)), critical=False)
        .add_extension(authority_key, critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **usage), critical=True)
        .sign(issuer_key, None)
    )
    return made.public_bytes(Encoding.PEM).decode()


def _key_id(key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(key.public_bytes_raw()).digest()[:20]


def forged(name: x509.Name) -> Credentials:
    """What the thief of CARD could make: a certificate of any subject signed by its issuer."""
    return thief(certify(name, ISSUER.subject, ISSUER_KEY) + CARD.issuer)


def under_a_sub_issuer() -> Credentials:
    """A node's leaf signed by an issuer that a stolen issuer made."""
    middle = subject((OU, "node"), (CN, "sub"))
    leaf = certify(subject((OU, "node"), (CN, THIEF)), middle, THIEF_KEY)
    return thief(leaf + certify(middle, ISSUER.subject, ISSUER_KEY, ca=True) + CARD.issuer)


ISSUER = x509.load_pem_x509_certificate(CARD.issuer.encode())
ISSUER_KEY = certificate.key_from_pem(CARD.issuer_key)
SELF = subject((OU, "operator"), (CN, THIEF))
EXPIRED = issue_leaf(mint_card(GRID, "web3", NOW - 60 * DAY, 30 * DAY, b"3" * 32), b"c" * 32, NOW - 60 * DAY)
FUTURE = issue_leaf(mint_card(GRID, "web3", NOW + 60 * DAY, 30 * DAY, b"3" * 32), b"c" * 32, NOW + 60 * DAY)
STRANGER = issue_leaf(mint_card(FOREIGN, "web1", NOW, DAY, b"4" * 32), b"d" * 32, NOW)
HOSTILE: dict[str, tuple[Credentials, str]] = {
    "an operator's leaf signed by an issuer": (
        forged(subject((OU, "operator"), (CN, THIEF))),
        "permitted subtree violation",
    ),
    "no role, signed by an issuer": (forged(subject((CN, THIEF))), "permitted subtree violation"),
    "a role after the name": (forged(subject((CN, THIEF), (OU, "node"))), "permitted subtree violation"),
    "a user's leaf signed by a card's issuer": (
        forged(subject((OU, "user"), (CN, THIEF))),
        "permitted subtree violation",
    ),
    "a sub-issuer": (under_a_sub_issuer(), "path length constraint exceeded"),
    "a card of another grid": (STRANGER, "self-signed certificate in certificate chain|unable to get"),
    "an operator of another grid": (operator_credentials(FOREIGN, NOW, b"p" * 32), "unable to get local issuer"),
    "an expired card": (EXPIRED, "certificate has expired"),
    "a card of the future": (FUTURE, "certificate is not yet valid"),
    "a certificate signed by itself": (thief(certify(SELF, SELF, THIEF_KEY)), "self-signed|unable to get"),
    "a leaf without its issuer": (replace(OTHER, chain=OTHER.chain.split(b"-\n-")[0] + b"-\n"), "unable to get"),
}
IMPOSTORS = {
    "two roles": subject((OU, "node"), (OU, "operator"), (CN, THIEF)),
    "another node's id": subject((OU, "node"), (CN, NODE.node)),
    "two ids": subject((OU, "node"), (CN, NODE.node), (CN, THIEF)),
    "two parts in one": x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(OU, "node")]),
            x509.RelativeDistinguishedName([x509.NameAttribute(CN, THIEF), x509.NameAttribute(OU, "operator")]),
        ]
    ),
}
hostile = pytest.mark.parametrize(("credentials", "reason"), HOSTILE.values(), ids=HOSTILE.keys())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory; raises what either end says of the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="anything"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1], ends[0]


async def link(accepting: ssl.SSLContext, dialling: ssl.SSLContext) -> tuple[PeerIdentity, PeerIdentity]:
    """Over real sockets: who the server says the client is, and the client the server; raises the client's refusal."""
    seen: asyncio.Queue[PeerIdentity] = asyncio.Queue()

    async def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(peer_identity(writer.get_extra_info("ssl_object")))
        writer.write(b"in")
        writer.close()

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=accepting)
    async with server:
        host, port = server.sockets[0].getsockname()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port, ssl=dialling)
            try:
                peer = peer_identity(writer.get_extra_info("ssl_object"))
                assert await reader.read(2) == b"in"
            finally:
                writer.close()
            return await seen.get(), peer


def run(loop: Loop, job: Coroutine[Any, Any, tuple[PeerIdentity, PeerIdentity]]) -> tuple[PeerIdentity, PeerIdentity]:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(job)


@LOOPS
@pytest.mark.parametrize("dialling", [OTHER, OPERATOR], ids=["node", "operator"])
def test_both_sides_learn_who_the_other_is(loop: Loop, dialling: Credentials) -> None:
    client, server = run(loop, link(server_context(NODE), client_context(dialling)))
    assert client == PeerIdentity(dialling.node, dialling.role, dialling.issuer)
    assert server == PeerIdentity(NODE.node, Role.NODE, NODE.issuer)


@LOOPS
@hostile
def test_the_server_refuses(loop: Loop, credentials: Credentials, reason: str) -> None:
    dialling = client_context(replace(credentials, ca=GRID.ca))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        run(loop, link(server_context(NODE), dialling))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(server_context(NODE), dialling)


@LOOPS
@hostile
def test_the_client_refuses(loop: Loop, credentials: Credentials, reason: str) -> None:
    accepting = server_context(replace(credentials, ca=GRID.ca))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        run(loop, link(accepting, client_context(NODE)))


@LOOPS
def test_a_client_without_a_certificate_is_refused(loop: Loop) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    bare.set_alpn_protocols([ALPN])
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        run(loop, link(server_context(NODE), bare))
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        handshake(server_context(NODE), bare)


@pytest.mark.parametrize("name", IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_a_subject_that_is_not_its_keys_is_no_identity(name: x509.Name) -> None:
    server, _ = handshake(server_context(NODE), client_context(forged(name)))
    with pytest.raises(NotAuthenticated, match="subject"):
        peer_identity(server)


def test_an_operators_role_needs_the_cas_signature() -> None:
    """Even if name constraints were not enforced."""
    leaf = x509.load_pem_x509_certificate(forged(subject((OU, "operator"), (CN, THIEF))).chain)
    with pytest.raises(NotAuthenticated, match="subject"):
        read_leaf(leaf.public_bytes(Encoding.DER))


def test_only_tls_1_3_and_the_links_own_protocol() -> None:
    old = client_context(OTHER)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        handshake(server_context(NODE), old)
    mute = client_context(OTHER)
    mute.set_alpn_protocols(["http/1.1"])
    for end in handshake(server_context(NODE), mute):
        with pytest.raises(NotAuthenticated, match="does not speak"):
            peer_identity(end)
    server, client = handshake(server_context(NODE), client_context(OTHER))
    assert (server.version(), client.version(), client.compression()) == ("TLSv1.3", "TLSv1.3", None)


def test_no_session_is_resumed() -> None:
    server, client = handshake(server_context(NODE), client_context(OTHER))
    server.write(b"x")
    assert client.read(1) == b"x"
    assert client.session is None or not client.session.has_ticket


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "file"])
def test_no_key_stays_on_disk(memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    contexts = server_context(NODE), client_context(OTHER)
    with pytest.raises(CardInvalid):
        server_context(replace(NODE, key=OTHER.key))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)
    assert peer_identity(handshake(*contexts)[0]).node == OTHER.node


def test_unusable_credentials_are_card_invalid() -> None:
    for change in ({"ca": "nothing"}, {"chain": b"", "key": b""}, {"key": b"nothing"}):
        with pytest.raises(CardInvalid):
            client_context(replace(NODE, **change))
