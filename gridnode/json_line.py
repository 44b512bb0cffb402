"""JSON that came from elsewhere, as one line: what makes it safe to put lines together."""

import msgspec

from gridnode.errors import BodyInvalid

__all__ = ["json_line"]

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""Line ends stand between JSON's tokens only: inside of text they are escaped."""


def json_line(body: bytes) -> bytes:
    """The value without line ends, `null` for nothing; BodyInvalid for what is not JSON."""
    if not body:
        return b"null"
    try:
        body.decode()
        _decode_raw(body)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"the result is not JSON: {exc}") from exc
    return body.translate(_ONE_LINE) if b"\n" in body or b"\r" in body else body
