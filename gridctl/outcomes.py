"""What a node's reply makes of a call, and how an error is raised with its remote traceback."""

from typing import Any

import msgspec

from gridctl.json_values import decode_result
from gridnode import wire
from gridnode.errors import GridError, NodeLost
from gridnode.messages import ReplyMeta
from gridnode.model import Outcome
from gridnode.wire import Frame

__all__ = ["RemoteTraceback", "lost", "outcome_of", "raised", "result_of"]

_decode_meta = msgspec.json.Decoder(ReplyMeta).decode


class RemoteTraceback(Exception):
    """The cause of an error that was raised elsewhere: its traceback there, as text."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)
        self.trace = trace

    def __str__(self) -> str:
        return f'\n"""\n{self.trace.rstrip()}\n"""'


def outcome_of(reply: Frame, attempts: int, duration: float) -> Outcome:
    """attempts: on other nodes' links before this one; duration: seconds since it was first sent."""
    try:
        meta = _decode_meta(reply.meta) if reply.meta else ReplyMeta()
    except (msgspec.MsgspecError, RecursionError):
        meta = ReplyMeta()
    error = wire.decode_error(reply.body) if reply.flags & wire.FLAG_ERROR else None
    return Outcome(
        b"" if error else reply.body,
        error,
        meta.node or None,
        meta.name,
        meta.instance or None,
        not (error and error.retryable),
        meta.attempts + attempts,
        duration,
    )


def lost(error: GridError, attempts: int, duration: float) -> Outcome:
    """Of a call whose link went while it was under way: nobody knows whether it ran."""
    said = NodeLost(f"lost the node during the call: {error.message}")
    return Outcome(error=said, attempts=attempts + 1, duration=duration)


def raised(error: GridError) -> GridError:
    """The error, ready to be raised: a remote traceback is its cause."""
    if error.trace and error.__cause__ is None:
        error.__cause__ = RemoteTraceback(error.trace)
    return error


def result_of(outcome: Outcome) -> Any:
    """The call's result; raises what became of it instead."""
    if outcome.error:
        raise raised(outcome.error)
    return decode_result(outcome.body)
