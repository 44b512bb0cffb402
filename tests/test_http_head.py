import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridnode.http_head import MAX_BODY, Head, read_head
from gridnode.model import TaskName


def head(target: str = "echo", *lines: str, host: str = "Host: localhost") -> bytes:
    return "\r\n".join([f"POST /v1/invoke/{target} HTTP/1.1", host, *lines, "", ""]).encode("latin-1")


def test_an_ordinary_head() -> None:
    read = read_head(
        head("req.get_ip?node=web-1&timeout=0.5", "content-LENGTH:  12 ", "Accept: */*", "Idempotency-Key: a b")
    )
    assert read == Head(TaskName("req.get_ip"), "web-1", "0.5", "localhost", None, "a b", 12)
    assert read_head(head()) == Head(TaskName("echo"), "", None, "localhost", None, "", 0)
    assert read_head(head("echo", "Origin: http://x", "Grid-Timeout: 3")) == Head(
        TaskName("echo"), "", "3", "localhost", "http://x", "", 0
    )
    asked = read_head(head("echo?timeout=", "Grid-Timeout: 3"))
    assert asked
    assert asked.timeout == "", "what the address says goes first"


ACCEPTED = ["*/*", "application/json", "application/json, text/plain, */*", "application/json;q=0.9,*/*;q=0.8"]


@pytest.mark.parametrize("accept", ACCEPTED)
def test_what_takes_json_is_ordinary(accept: str) -> None:
    assert read_head(head("echo", f"Accept: {accept}"))


LINES = {
    "length and chunks": ("Content-Length: 3", "Transfer-Encoding: chunked"),
    "chunks": ("Transfer-Encoding: chunked",),
    "odd chunks": ("Transfer-Encoding: xchunked",),
    "two lengths": ("Content-Length: 3", "Content-Length: 4"),
    "the same length twice": ("Content-Length: 3", "content-length: 3"),
    "a list of lengths": ("Content-Length: 3, 3",),
    "a signed length": ("Content-Length: +3",),
    "a negative length": ("Content-Length: -3",),
    "a length in hex": ("Content-Length: 0x3",),
    "a length with a line": ("Content-Length: 1_0",),
    "no length": ("Content-Length:",),
    "a long body": (f"Content-Length: {MAX_BODY + 1}",),
    "a length of many digits": ("Content-Length: 000003",),
    "an Arabic digit": ("Content-Length: \u00b2",),
    "compressed": ("Content-Encoding: gzip",),
    "asks first": ("Expect: 100-continue",),
    "upgrade": ("Upgrade: h2c",),
    "trailer": ("Trailer: X",),
    "closes": ("Connection: close",),
    "upgrades": ("Connection: keep-alive, Upgrade",),
    "two connections": ("Connection: keep-alive", "Connection: close"),
    "a stream of events": ("Accept: text/event-stream",),
    "a stream of lines": ("Accept: application/x-ndjson, */*",),
    "two hosts": ("Host: localhost",),
    "two keys": ("Idempotency-Key: a", "Idempotency-Key: b"),
    "two origins": ("Origin: http://localhost", "Origin: http://evil.example"),
    "a space before the colon": ("Content-Length : 3",),
    "a name with a space": ("X Y: 3",),
    "no name": (": 3",),
    "no colon": ("Content-Length",),
    "a folded line": ("X: a", " Content-Length: 3"),
    "a bare line feed": ("X: a\nContent-Length: 3",),
    "a bare return": ("X: a\rContent-Length: 3",),
    "a null": ("X: a\0",),
    "not ASCII": ("X: \u00e9",),
    "many lines": tuple(f"X-{number}: 1" for number in range(64)),
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_a_head_that_is_not_ordinary(lines: tuple[str, ...]) -> None:
    assert read_head(head("echo", *lines)) is None


TARGETS = ["", ".", "..", "../echo", "a/b", "a%2Fb", "%65cho", "echo#x", "echo?", "echo?x=1", "echo?node=a&node=b"]
TARGETS += [
    "echo?timeout",
    "echo?timeout=1=2",
    "echo?node=a%20b",
    "echo?node=a+b",
    "echo?a",
    "echo?&node=a",
    "echo?node=é",
]
TARGETS += ["x" * 256, "-echo", "echo ", " echo", "echo\t", "echo?node=a;timeout=1"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_not_ordinary(target: str) -> None:
    assert read_head(head(target)) is None


STARTS = ["GET", "HEAD", "post", "POSTX", "PUT", "OPTIONS", "CONNECT", " POST", "\r\nPOST", "POST ", "PO\0ST"]


@pytest.mark.parametrize("method", STARTS)
def test_a_method_that_is_not_ordinary(method: str) -> None:
    assert read_head(head().replace(b"POST", method.encode())) is None


@pytest.mark.parametrize(
    "version", ["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", "HTTP/1.10", "HTTP/0.9", "RTSP/1.0"]
)
def test_a_version_that_is_not_ordinary(version: str) -> None:
    assert read_head(head().replace(b"HTTP/1.1", version.encode())) is None


def test_a_head_without_a_host_or_cut_short() -> None:
    whole = head("echo", "Content-Length: 3")
    assert read_head(whole.replace(b"Host", b"Hast")) is None
    assert not any(read_head(whole[:size]) for size in range(len(whole)))
    assert read_head(whole + b"1") is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_is_not_ordinary_or_has_one_length(start: bytes, line: bytes) -> None:
    assume(b"\r\n" not in line)
    assert read_head(start) is None
    read = read_head(b"POST /v1/invoke/echo HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
    assert read is None or (0 <= read.length <= MAX_BODY and b"\n" not in line and line.isascii())
