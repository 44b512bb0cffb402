"""Every error this project raises on purpose.

GridError                    code             http  may another node be asked?
├── UsageError               usage            400
│   ├── GridfileInvalid      gridfile_invalid
│   ├── CardInvalid          card_invalid
│   ├── SettingsInvalid      settings_invalid
│   ├── WeakSecret           weak_secret
│   ├── TopicInvalid         topic_invalid
│   ├── ProjectInvalid       project_invalid
│   └── ImageInvalid         image_invalid
├── LinkError                link             503
│   ├── FrameInvalid         frame_invalid
│   ├── LinkClosed           link_closed      503   yes
│   ├── NodeDuplicated       node_duplicated  409
│   └── NotAuthenticated     not_authenticated 401
├── CallError                call             500
│   ├── BodyInvalid          body_invalid     400
│   ├── BodyTooLarge         body_too_large   413
│   ├── Forbidden            forbidden        403
│   ├── TaskNotFound         task_not_found   404   yes
│   ├── NodeNotFound         node_not_found   404
│   ├── KeyReused            key_reused       422
│   ├── NoCapacity           no_capacity      429   yes
│   ├── NotReady             not_ready        503   yes
│   ├── NoNode               no_node          503
│   ├── TaskRaised           task_raised      500
│   ├── TaskCrashed          task_crashed     502
│   ├── NodeLost             node_lost        502
│   └── CallTimeout          timeout          504
├── SyncError                sync             500
│   ├── ChunkInvalid         chunk_invalid
│   ├── ChunkMissing         chunk_missing
│   └── ManifestInvalid      manifest_invalid
├── DependencyError          dependency       500
├── LedgerError              ledger           409
│   ├── ReleaseNotFound      release_not_found 404
│   └── SignatureInvalid     signature_invalid 403
├── HostError                host             502
│   ├── HostUnreachable      host_unreachable
│   │   └── HostKeyChanged   host_key_changed
│   └── StepFailed           step_failed
└── SandboxError             sandbox          503
    ├── EngineUnavailable    engine_unavailable
    ├── InstanceFailed       instance_failed
    └── ReleaseFailed        release_failed
"""

from typing import ClassVar, NamedTuple


class GridError(Exception):
    """Base of all: `message` for people, `code` for programs, `trace` a remote traceback or None."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, trace: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.trace = trace
        self.hint = hint


class UsageError(GridError):
    code, status = "usage", 400


class GridfileInvalid(UsageError):
    code = "gridfile_invalid"


class CardInvalid(UsageError):
    code = "card_invalid"


class SettingsInvalid(UsageError):
    """A GRIDNODE_ variable that cannot be, or names what is taken."""

    code = "settings_invalid"


class WeakSecret(UsageError):
    code = "weak_secret"


class TopicInvalid(UsageError):
    """What is neither a topic nor a pattern of topics."""

    code = "topic_invalid"


class ProjectInvalid(UsageError):
    code = "project_invalid"


class ImageInvalid(UsageError):
    """An image archive that cannot be shipped."""

    code = "image_invalid"


class LinkError(GridError):
    code, status = "link", 503


class FrameInvalid(LinkError):
    code = "frame_invalid"


class LinkClosed(LinkError):
    code, retryable = "link_closed", True


class NodeDuplicated(LinkError):
    """Another machine with the same node key is in the grid."""

    code, status = "node_duplicated", 409


class NotAuthenticated(LinkError):
    code, status = "not_authenticated", 401


class CallError(GridError):
    """What an invocation may end with instead of a result."""

    code = "call"


class BodyInvalid(CallError):
    code, status = "body_invalid", 400


class BodyTooLarge(CallError):
    code, status = "body_too_large", 413


class Forbidden(CallError):
    code, status = "forbidden", 403


class TaskNotFound(CallError):
    code, status, retryable = "task_not_found", 404, True


class NodeNotFound(CallError):
    code, status = "node_not_found", 404


class KeyReused(CallError):
    """An idempotency key that came with another task or another argument before."""

    code, status = "key_reused", 422


class NoCapacity(CallError):
    code, status, retryable = "no_capacity", 429, True


class NotReady(CallError):
    code, status, retryable = "not_ready", 503, True


class NoNode(CallError):
    code, status = "no_node", 503


class TaskRaised(CallError):
    """The task's own exception; `trace` holds its traceback."""

    code, status = "task_raised", 500


class TaskCrashed(CallError):
    """The instance died with the call inside it: the call may have had effects."""

    code, status = "task_crashed", 502


class NodeLost(CallError):
    """The node went away with the call inside it: the call may have had effects."""

    code, status = "node_lost", 502


class CallTimeout(CallError):
    code, status = "timeout", 504


class SyncError(GridError):
    code = "sync"


class ChunkInvalid(SyncError):
    """Bytes that do not hash to the name they came under."""

    code = "chunk_invalid"


class ChunkMissing(SyncError):
    code = "chunk_missing"


class ManifestInvalid(SyncError):
    code = "manifest_invalid"


class DependencyError(GridError):
    """The packages that a project asks for could not be had, through no fault of the project."""

    code = "dependency"


class LedgerError(GridError):
    code, status = "ledger", 409


class ReleaseNotFound(LedgerError):
    code, status = "release_not_found", 404


class SignatureInvalid(LedgerError):
    code, status = "signature_invalid", 403


class HostError(GridError):
    """What went wrong on a server that gridctl reaches by SSH."""

    code, status = "host", 502


class HostUnreachable(HostError):
    code = "host_unreachable"


class HostKeyChanged(HostUnreachable):
    code = "host_key_changed"


class StepFailed(HostError):
    """A step of a plan that a server did not take; `trace` holds the last lines it printed."""

    code = "step_failed"


class SandboxError(GridError):
    code, status = "sandbox", 503


class EngineUnavailable(SandboxError):
    code = "engine_unavailable"


class InstanceFailed(SandboxError):
    """An instance did not become healthy; `trace` holds its import error or last log lines."""

    code = "instance_failed"


class TaskFailure(NamedTuple):
    """Why one task file of a release did not come up; trace: its import error or last log lines."""

    file: str
    message: str
    trace: str | None = None


class ReleaseFailed(SandboxError):
    """A release that did not prove healthy on a node, with every task file that failed."""

    code = "release_failed"

    def __init__(self, message: str, failures: tuple[TaskFailure, ...] = (), *, trace: str | None = None) -> None:
        super().__init__(message, trace=trace)
        self.failures = failures


def _tree(cls: type[GridError]) -> dict[str, type[GridError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


_BY_CODE = _tree(GridError)


def error_from(code: str, message: str, trace: str | None = None, hint: str | None = None) -> GridError:
    """The typed error for a code that came over the wire; an unknown code becomes a GridError."""
    error = _BY_CODE.get(code, GridError)(message, trace=trace)
    error.hint = hint
    return error
