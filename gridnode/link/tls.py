"""TLS of a Link: 1.3 only, both sides authenticated, trusting this grid's CA and nothing else.

With TLS 1.3 a client's handshake ends before the server has judged its certificate. A refusal reaches the client on
its first read, as a closed connection (event loops drop the alert) or an `ssl.SSLError`: only an answered hello proves
that it was let in.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from gridnode.errors import CardInvalid, NotAuthenticated
from gridnode.identity import Credentials, PeerIdentity, read_leaf

__all__ = ["ALPN", "client_context", "peer_identity", "reload", "server_context"]

ALPN: Final = "gridcontrol/1"


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """The accepting side's context; CardInvalid when OpenSSL refuses the credentials."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0  # links live for days: resumption buys nothing, and would outlive a revocation
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """The dialling side's context; CardInvalid when OpenSSL refuses the credentials."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def reload(context: ssl.SSLContext, credentials: Credentials) -> None:
    """From the next handshake on, show these; CardInvalid when OpenSSL refuses them."""
    try:
        with _secret_file(credentials.chain + credentials.key) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as exc:
        raise CardInvalid(f"the credentials cannot be used for TLS: {exc.reason}") from exc


def peer_identity(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> PeerIdentity:
    """Who is at the other end of a completed handshake; NotAuthenticated when it did not prove it."""
    if ssl_object.selected_alpn_protocol() != ALPN:
        raise NotAuthenticated(f"the peer does not speak {ALPN}")
    der = ssl_object.getpeercert(binary_form=True)
    if not der:
        raise NotAuthenticated("the peer showed no certificate")
    return read_leaf(der)


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # the peer is the id in its certificate, not the name it was dialled by
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])
    try:
        context.load_verify_locations(cadata=credentials.ca)
    except ssl.SSLError as exc:
        raise CardInvalid(f"the grid's CA cannot be used for TLS: {exc.reason}") from exc
    reload(context, credentials)
    return context


@contextmanager
def _secret_file(content: bytes) -> Iterator[str]:
    """A path that reads as `content` inside the block: memory on Linux, elsewhere a 0600 file removed at once."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor, path = os.memfd_create("credentials", os.MFD_CLOEXEC), None
    else:
        descriptor, path = tempfile.mkstemp(prefix="gridcontrol-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            yield path or f"/proc/self/fd/{descriptor}"
    finally:
        if path:
            with suppress(FileNotFoundError):
                os.unlink(path)
