import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode.kept_logs import KEPT_LINES, KEPT_SIZE, KeptLogs
from gridnode.model import InstanceId, LogLine
from gridnode.sandbox import Output

ONE, TWO = InstanceId("0000000a"), InstanceId("0000000b")
SIZE, TOTAL = 128 * 1024, 512 * 1024


def output(count: int, text: str = "line", start: int = 1) -> list[Output]:
    return [Output(number, "stdout", f"{text} {number}") for number in range(start, start + count)]


@pytest.fixture
def kept(tmp_path: Path) -> KeptLogs:
    return KeptLogs(tmp_path / "logs", SIZE, TOTAL)


def test_lines_survive_the_instance_and_the_node(kept: KeptLogs, tmp_path: Path) -> None:
    kept.keep("echo", ONE, output(2))
    kept.keep("a.b", TWO, [Output(9, "stderr", "žluť\n\x1b")])
    again = KeptLogs(tmp_path / "logs", SIZE, TOTAL)
    assert again.read("echo", 0) == [LogLine(n, "echo", ONE, "stdout", f"line {n}") for n in (1, 2)]
    assert again.read("a.b", 0) == [LogLine(9, "a.b", TWO, "stderr", "žluť\n\x1b")]
    assert len(again.read("", 0)) == 3
    assert again.read("other", 0) == []


def test_of_an_instance_the_last_lines_are_kept(kept: KeptLogs) -> None:
    kept.keep("echo", ONE, output(1000))
    assert [line.time for line in kept.read("echo", 0)] == list(range(1001 - KEPT_LINES, 1001))
    kept.keep("long", TWO, output(100, "x" * 2000))
    lines = kept.read("long", 0)
    assert lines[-1].time == 100
    assert KEPT_SIZE - 2100 < sum(len(line.text) for line in lines) <= KEPT_SIZE


def test_a_task_file_and_all_of_them_are_bounded(kept: KeptLogs, tmp_path: Path) -> None:
    for number in range(40):
        kept.keep(f"task{number % 8}", ONE, output(200, "y" * 300, number * 1000))
        files = list((tmp_path / "logs").iterdir())
        assert sum(path.stat().st_size for path in files) <= TOTAL
    assert max(path.stat().st_size for path in files) <= SIZE // 2 + 2 * KEPT_SIZE
    assert max(line.time for line in kept.read("task7", 0)) == 39_199, "the newest are there"
    assert min(line.time for line in kept.read("", 0)) >= 1000, "the oldest went"


def test_nothing_is_written_for_silent_instances(kept: KeptLogs, tmp_path: Path) -> None:
    kept.keep("echo", ONE, [])
    assert not (tmp_path / "logs").exists()
    assert kept.read("", 0) == []


def test_files_that_did_not_change_are_not_read(kept: KeptLogs, tmp_path: Path) -> None:
    kept.keep("echo", ONE, output(1))
    os.utime(tmp_path / "logs" / "echo.log", ns=(5_000, 5_000))
    assert kept.read("", 5_000) == []
    assert len(kept.read("", 4_999)) == 1


@pytest.mark.parametrize("name", ["..", "../../x", "a/b", "\x00", "x" * 500, "é" * 200, ".log"])
def test_no_name_leads_out_of_the_directory(kept: KeptLogs, tmp_path: Path, name: str) -> None:
    kept.keep(name, ONE, output(1))
    assert [line.task for line in kept.read(name, 0)] == [name]
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "logs"]


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    kept = KeptLogs(tmp_path / "logs", SIZE, TOTAL)
    kept.keep("echo", ONE, output(1))
    assert kept.read("echo", 0) == []
    assert kept.read("", 0) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_what_is_torn_or_damaged_is_passed_over(kept: KeptLogs, tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / "echo.log").write_bytes(garbage + b"\n")
    kept.keep("echo", ONE, output(1))
    assert LogLine(1, "echo", ONE, "stdout", "line 1") in kept.read("echo", 0)


def test_several_threads(kept: KeptLogs) -> None:
    jobs = [threading.Thread(target=kept.keep, args=("echo", ONE, output(50, start=n * 50))) for n in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sorted(line.time for line in kept.read("echo", 0)) == list(range(200))
