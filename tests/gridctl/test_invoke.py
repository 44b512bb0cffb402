import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.cli import run
from gridctl.invoke import as_fields, read_body
from gridnode.errors import BodyTooLarge, GridError, TaskRaised, UsageError
from gridnode.model import InstanceId, NodeId, Outcome
from gridnode.wire import MAX_CALL_BODY
from tests.gridctl.conftest import RunningGrid

Capture = pytest.CaptureFixture[str]


def invoke(grid: RunningGrid, *arguments: str) -> int:
    return run(["invoke", *arguments, "--gridfile", str(grid.gridfile)])


def test_stdout_is_the_result(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "echo", "-d", '{"a": [1, "ü"]}') == 0
    out, err = capsys.readouterr()
    assert (out, err) == ('{"a":[1,"ü"]}\n', "")


def test_an_idempotency_key(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert [invoke(hello_grid, "echo", "-d", "1", "--idempotency-key", "cli 1") for _ in range(2)] == [0, 0]
    assert invoke(hello_grid, "echo", "-d", "2", "--idempotency-key", "cli 1") == 1
    assert "was used for another" in capsys.readouterr().err


def test_no_argument_is_null(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "echo") == 0
    assert capsys.readouterr().out == "null\n"


def test_json_has_the_whole_outcome(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "words.longest", "-d", '"a bcd"', "--json", "--node", "node-2") == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["schema"], fields["result"], fields["attempts"]) == (1, "bcd", 1)
    assert fields["node"]["name"] == "node-2"
    assert len(fields["node"]["id"]) == 40
    assert len(fields["instance"]) == 8
    assert 0 < fields["duration_ms"] < 10_000


def test_json_has_the_error(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "words", "--json", "-d", "1") == 6
    out, err = capsys.readouterr()
    fields = json.loads(out)
    assert fields["error"]["code"] == "task_raised"
    assert "tasks/words.py" in fields["error"]["trace"]
    assert "result" not in fields
    assert fields["node"]["name"] in ("node-1", "node-2")
    assert err.startswith("gridctl: TypeError: send a text")
    assert 'File "' in err


def test_a_terminal_gets_indented_json_and_where_it_ran(
    hello_grid: RunningGrid, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridctl.invoke.is_terminal", lambda stream: True)
    assert invoke(hello_grid, "echo", "-d", '{"a":"\\u001b[31m"}', "--node", "node-1") == 0
    out, err = capsys.readouterr()
    assert out == '{\n  "a": "\\u001b[31m"\n}\n'
    assert err.startswith("node-1 in ")
    assert err.endswith(" ms\n")


def test_a_large_body_goes_through(hello_grid: RunningGrid, tmp_path: Path, capsys: Capture) -> None:
    text = json.dumps("x" * 5_000_000)
    (tmp_path / "body.json").write_text(text)
    assert invoke(hello_grid, "echo", "-d", f"@{tmp_path / 'body.json'}") == 0
    assert capsys.readouterr().out == text + "\n"


def test_a_body_past_6_mib_is_refused(hello_grid: RunningGrid, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "body.json").write_text(json.dumps("x" * MAX_CALL_BODY))
    assert invoke(hello_grid, "echo", "-d", f"@{tmp_path / 'body.json'}") == 1
    assert "6 MiB" in capsys.readouterr().err


def test_body_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b' {"a": 1} ')

    monkeypatch.setattr("sys.stdin", Stdin)
    assert read_body("-") == b' {"a": 1} '


@pytest.mark.parametrize(
    ("given_body", "message", "hint"),
    [
        ("hello", "at column 1", "-d '\"hello\"'"),
        ("hello world", "at column 1", "-d '\"hello world\"'"),
        ('{"a":}', "at column 6", None),
        ('{"a": 1,\n"b" 2}', "at line 2, column 5", None),
        ("", "at column 1", "quotes"),
        ("@/no/such/file", "cannot read /no/such/file", "@FILE"),
        ("NaN", "NaN is not JSON", None),
        ("[" * 100_000, "not JSON", None),
    ],
)
def test_a_body_that_is_not_json(given_body: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        read_body(given_body)
    assert message in caught.value.message
    assert (hint is None) == (caught.value.hint is None)
    assert hint is None or hint in (caught.value.hint or "")


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b'"\xff"')
    with pytest.raises(UsageError, match="UTF-8"):
        read_body(f"@{path}")
    path.write_bytes(b"1" * (MAX_CALL_BODY + 1))
    with pytest.raises(BodyTooLarge):
        read_body(f"@{path}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_any_json_is_sent_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    if not text.startswith(("-", "@")):
        assert read_body(text) == text.encode()


@given(st.text(max_size=50).filter(lambda text: text[:1] not in ("-", "@")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert read_body(text) == text.encode()


def test_a_negative_number_is_a_body() -> None:
    assert read_body("-5") == b"-5"


def outcome(error: GridError | None = None) -> Outcome:
    return Outcome(b"[1]", error, NodeId("a" * 40), "n", InstanceId("12345678"), duration=0.0012345)


def test_fields_of_an_outcome() -> None:
    ran = {"node": {"id": "a" * 40, "name": "n"}, "instance": "12345678", "attempts": 1, "duration_ms": 1.234}
    assert as_fields(outcome()) == {"result": [1], **ran}
    error = {"code": "task_raised", "message": "no", "trace": "T"}
    assert as_fields(outcome(TaskRaised("no", trace="T"))) == {"error": error, **ran}


def test_many_calls_and_a_summary(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "echo", "-d", "1", "--repeat", "200", "--concurrency", "16", "--json") == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["schema"], fields["calls"], fields["succeeded"], fields["errors"]) == (1, 200, 200, {})
    assert sum(fields["nodes"].values()) == 200
    assert fields["calls_per_second"] > 0
    assert invoke(hello_grid, "echo", "-d", "1", "--repeat", "3") == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 calls in ")
    assert err == ""


def test_a_summary_of_failures(hello_grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(hello_grid, "words", "-d", "1", "--repeat", "5", "--json") == 6
    assert json.loads(capsys.readouterr().out)["errors"] == {"task_raised": 5}
    assert invoke(hello_grid, "nothing", "--repeat", "2") == 5
    assert "task_not_found: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--async"], "no queue"),
        (["--repeat", "2", "--idempotency-key", "k"], "nothing to repeat"),
        (["--repeat", "0"], "0 is not in the range"),
        (["--repeat", "2", "--concurrency", "1025"], "1025 is not in the range"),
    ],
)
def test_what_cannot_be_repeated(hello_grid: RunningGrid, capsys: Capture, flags: list[str], said: str) -> None:
    assert invoke(hello_grid, "echo", *flags) == 2
    assert said in capsys.readouterr().err
