"""Links: authenticated, multiplexed connections. One protocol class serves all three hops.

`LinkEnd` is what the owner of a link provides; `protocol.Link` is the connection itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gridnode.errors import GridError
from gridnode.model import Done, Invocation
from gridnode.wire import MAX_HELLO, Frame

if TYPE_CHECKING:
    from gridnode.link.protocol import Link

__all__ = ["Cancel", "Invoker", "LinkEnd", "LinkLimits", "Replied", "nothing_to_cancel"]

Cancel = Callable[[], None]
"""Gives a call up; calling it twice, or after the outcome, does nothing."""
Replied = Callable[[Frame | GridError], None]
"""Called exactly once with the Reply frame of a call, or why there will be none."""


def nothing_to_cancel() -> None:
    """The Cancel of a call that is over already."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds on what the other side may do. Seconds and bytes."""

    hello_timeout: float = 5.0
    max_hello: int = MAX_HELLO
    max_inbound: int = 1024
    max_buffered: int = 64 * 1024 * 1024
    max_events: int = 2000
    """Events and pings taken per second; past it the link is closed."""


class LinkEnd(Protocol):
    """The owner's side of a link. Called from the event loop; an exception closes only that call."""

    def hello(self, link: "Link") -> bytes:
        """The JSON body of our hello, sent as soon as the connection stands."""

    def opened(self, link: "Link", body: bytes) -> None:
        """The other side's hello; raise a GridError to refuse the link."""

    def called(self, link: "Link", frame: Frame) -> None:
        """A Call: answer with link.reply or link.reply_error, now or later."""

    def heard(self, link: "Link", frame: Frame) -> None:
        """An Event."""

    def closed(self, link: "Link", error: GridError | None) -> None:
        """The link is gone; called once, and only if `opened` was."""


class Invoker(Protocol):
    """Where a call can run: this node's pool, or a peer at the far end of a link."""

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Start the call; `done` gets its Outcome, at once or later."""
