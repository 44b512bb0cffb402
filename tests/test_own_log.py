import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.messages import OWN_LOG
from gridnode.own_log import LogFile, read_own_log

SECOND = 1_000_000_000
START = 1_795_489_200
FIRST = START * SECOND


def event(number: int, text: str = "it happened") -> str:
    minutes, seconds = divmod(number, 60)
    stamp = f"2026-11-24T03:{minutes:02d}:{seconds:02d}.000000Z"
    return json.dumps({"event": text, "n": number, "level": "warning", "timestamp": stamp})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "gridnode.log"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_lines_are_written_and_read_back(path: Path, logger: logging.Logger) -> None:
    file = LogFile(path, 64 * 1024, 3)
    logger.addHandler(file)
    for number in range(10):
        logger.warning("%s", event(number))
    file.close()
    file.close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    lines = read_own_log(path, 1 << 20, 0, 100)
    assert [(line.time, line.task, line.instance, line.stream) for line in lines] == [
        (FIRST + number * SECOND, OWN_LOG, "", "warning") for number in range(10)
    ]
    assert [json.loads(line.text)["n"] for line in lines] == list(range(10))
    assert read_own_log(path, 1 << 20, FIRST + 7 * SECOND, 100) == lines[8:]
    assert read_own_log(path, 1 << 20, 0, 3) == lines[7:]


def test_the_disk_it_takes_is_bounded(path: Path, logger: logging.Logger) -> None:
    file = LogFile(path, 64 * 1024, 3)
    logger.addHandler(file)
    for number in range(2000):
        logger.warning("%s", event(number, "x" * 300))
    file.close()
    files = sorted(entry.name for entry in path.parent.iterdir())
    assert files == ["gridnode.log", "gridnode.log.1", "gridnode.log.2"]
    assert sum(entry.stat().st_size for entry in path.parent.iterdir()) <= 3 * 64 * 1024
    lines = read_own_log(path, 150 * 1024, 0, 10_000)
    numbers = [json.loads(line.text)["n"] for line in lines]
    assert numbers == list(range(numbers[0], 2000)), "across rotated files, in order"
    assert 64 * 1024 < sum(len(line.text) for line in lines) <= 150 * 1024
    assert len(read_own_log(path, 150 * 1024, FIRST + 1990 * SECOND, 10_000)) == 9


def test_a_disk_that_is_too_slow_holds_nobody_up(path: Path, logger: logging.Logger) -> None:
    file = LogFile(path, 64 * 1024, 1)
    logger.addHandler(file)
    file._file.acquire()
    try:
        for number in range(10_000):
            logger.warning("%s", event(number % 3600))
    finally:
        file._file.release()


def test_no_log_yet(path: Path) -> None:
    assert read_own_log(path, 1 << 20, 0, 10) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)), max_size=5))
def test_what_is_no_event_is_passed_over(path: Path, garbage: list[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    wrong = [b'{"timestamp":"x"}', b'{"timestamp":"0001-01-01T00:00:00"}', b'{"timestamp":1}', b"[" * 2000]
    path.write_bytes(b"\n".join([*garbage, *wrong, event(1).encode(), b'{"torn']))
    assert read_own_log(path, 1 << 20, 1, 1000)[-1].time == FIRST + SECOND
