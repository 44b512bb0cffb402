"""Why a link is gone, in the project's own errors."""

import ssl

from gridnode.errors import GridError, LinkClosed, NotAuthenticated


def why_lost(exc: Exception | None) -> GridError:
    """What asyncio says of a connection that is lost; None: the other side closed it."""
    if isinstance(exc, ssl.SSLError):
        return NotAuthenticated(f"the other side refused our certificate: {exc.reason or exc}")
    return LinkClosed(f"connection lost: {exc}" if exc else "the other side closed the link")
