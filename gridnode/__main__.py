"""gridnode: reads its settings, sets up logging, and runs the node until it is told to stop."""

import asyncio
import logging
import signal
import sys

import structlog
import uvloop

from gridnode.errors import GridError, SettingsInvalid
from gridnode.node import Node
from gridnode.own_log import LogFile
from gridnode.settings import Settings, read_settings
from gridnode.start import read_card


def main() -> None:
    """Exit code 0 after a clean stop, 2 when a setting cannot be, 1 when the node cannot start or breaks otherwise."""
    try:
        settings = read_settings()
    except SettingsInvalid as exc:
        sys.stderr.write(f"gridnode: {exc.message}\n")
        sys.exit(2)
    set_up_logging(settings)
    try:
        uvloop.run(serve(settings))
    except GridError as exc:
        structlog.get_logger().error("cannot run", error=exc.message, hint=exc.hint)
        sys.exit(2 if isinstance(exc, SettingsInvalid) else 1)


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


def set_up_logging(settings: Settings) -> None:
    """JSON lines on stdout and in a file, one per event, ours and the libraries'."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    unwritable = None
    try:
        handlers.append(LogFile(settings.own_log, settings.log_size, settings.log_files))
    except OSError as exc:
        unwritable = exc
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level.upper(), handlers=handlers)
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
    if unwritable:
        structlog.get_logger().warning("no log on disk", path=str(settings.own_log), error=str(unwritable))


if __name__ == "__main__":
    main()
