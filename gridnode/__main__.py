"""gridnode: reads its settings, sets up logging, and runs the node until it is told to stop."""

import asyncio
import logging
import signal
import sys

import structlog
import uvloop

from gridnode.errors import GridError
from gridnode.node import Node, read_card
from gridnode.settings import Settings


def main() -> None:
    """Exit code 0 after a clean stop, 1 when the node cannot start or breaks."""
    settings = Settings()
    set_up_logging(settings.log_level)
    try:
        uvloop.run(serve(settings))
    except GridError as exc:
        structlog.get_logger().error("cannot run", error=exc.message, hint=exc.hint)
        sys.exit(1)


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    node = Node(settings, read_card(settings))
    log = structlog.get_logger()
    log.info("starting", node=node.id, name=settings.name)
    await node.run(stop)
    log.info("stopped")


def set_up_logging(level: str) -> None:
    """JSON lines on stdout, one per event, ours and the libraries'."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stdout)
    renderer = structlog.processors.JSONRenderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main()
