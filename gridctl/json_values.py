"""What goes into a grid and comes out of it, as JSON."""

import json
from typing import Any, Final

from gridnode.errors import BodyInvalid

__all__ = ["decode_result", "encode_argument"]

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_argument(argument: Any) -> bytes:
    """The argument as JSON, nothing for None; BodyInvalid when it has no such form."""
    if argument is None:
        return b""
    try:
        return _encode(argument).encode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name: only an escape can carry it
        return json.dumps(argument).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise BodyInvalid(
            f"the argument is not JSON: {exc}", hint="use None, bool, int, float, str, list, dict"
        ) from exc


def decode_result(body: bytes) -> Any:
    """The value of a result's JSON; BodyInvalid when it is none."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as exc:
        raise BodyInvalid(f"the result is not JSON: {exc}") from exc
