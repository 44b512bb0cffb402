"""What each node answers to a broadcast."""

from typing import Any, NamedTuple

from gridctl.json_values import decode_result
from gridctl.outcomes import raised
from gridnode import messages
from gridnode.errors import GridError, error_from
from gridnode.model import InstanceId, NodeId

__all__ = ["NodeAnswer", "read_answer"]


class NodeAnswer(NamedTuple):
    """One node's result, or error. missing: why it was not asked (dead, suspect, draining, no task); else empty.

    duration: seconds.
    """

    node: NodeId
    name: str
    result: Any = None
    error: GridError | None = None
    missing: str = ""
    instance: InstanceId | None = None
    duration: float = 0.0


def read_answer(line: bytes) -> NodeAnswer:
    """A NodeOutcome as it comes; BodyInvalid on garbage."""
    told = messages.decode_node_outcome(line)
    error = None
    if told.error:
        error = raised(error_from(told.error.code, told.error.message, told.error.trace, told.error.hint))
    result = None if error else decode_result(bytes(told.result))
    return NodeAnswer(told.node, told.name, result, error, told.missing, told.instance, told.duration_ms / 1000)
