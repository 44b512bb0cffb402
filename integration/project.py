"""The project that the tests deploy: small, with a task for every way a call can end."""

import random
from pathlib import Path

ECHO = """
def handler(event):
    return event
"""
PROBE = """
import os
import time

VERSION = 1

def version():
    return VERSION

def whoami(event, context):
    return {"node": context.node, "instance": context.instance, "host": os.uname().nodename}

def fail(event):
    raise ValueError(f"cannot take {event}")

def nap(event):
    time.sleep(event)
    return "slept"

def leave():
    os._exit(3)
"""
TASK_FILES = 2
BOOK_LINES = 20_000


def write(directory: Path, files: dict[str, str] | None = None) -> Path:
    """The project in `directory`, with `files` (path: text) added or replaced."""
    book = random.Random(1)
    lines = (f"{number} {book.getrandbits(160):x}" for number in range(BOOK_LINES))
    texts = {"tasks/echo.py": ECHO, "tasks/probe.py": PROBE, "book.txt": "\n".join(lines)} | (files or {})
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def versioned(number: int) -> dict[str, str]:
    """The change that makes `probe.version` return `number`."""
    return {"tasks/probe.py": PROBE.replace("VERSION = 1", f"VERSION = {number}")}
