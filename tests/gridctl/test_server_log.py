"""What is made of what the server of a silent node prints."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.server_log import MAX_TEXT, _of_file, _of_journal, _taken, left
from gridnode.messages import OWN_LOG, LogQuery
from gridnode.model import Address, Member, MemberState, NodeId, NodeRecord

EVENT = '{"event": "starting", "level": "warning", "timestamp": "2026-11-24T03:00:00.500000Z"}'
TIME = 1_795_489_200_500_000_000
QUERY = LogQuery(OWN_LOG, since=0, lines=3)


def record(name: str, *hosts: str) -> NodeRecord:
    return NodeRecord(NodeId("a" * 40), name, 1, 1, tuple(Address(host, 7400) for host in hosts), "1", 0)


def test_who_left_last() -> None:
    gone = [Member(record("web-1"), MemberState.LEFT, since) for since in (1.0, 2.0)]
    assert left([*gone, Member(record("web-2"), MemberState.ALIVE, 0.0)], "web-1") is not None
    assert left(gone, "web-2") is None


def journal(message: object, **fields: object) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(TIME // 1000), "MESSAGE": message, **fields})


def test_lines_of_the_journal() -> None:
    own = _of_journal(journal(EVENT))
    assert own is not None
    assert (own.time, own.task, own.stream, own.text) == (TIME, OWN_LOG, "warning", EVENT)
    systemd = _of_journal(journal("Main process exited", PRIORITY="3"))
    assert systemd is not None
    assert (systemd.stream, systemd.text) == ("error", "Main process exited")
    raw = _of_journal(journal([0xFF, 0x41]))
    assert raw is not None
    assert raw.text == "\ufffdA"
    long = _of_journal(journal("x" * 100_000))
    assert long is not None
    assert len(long.text) == MAX_TEXT


@pytest.mark.parametrize("text", ["", "{", "[]", journal(None), journal([256]), journal({}), '{"MESSAGE": "x"}'])
def test_what_is_no_line_of_the_journal(text: str) -> None:
    assert _of_journal(text) is None


def test_lines_of_the_file() -> None:
    line = _of_file(EVENT)
    assert line is not None
    assert (line.time, line.stream) == (TIME, "warning")
    assert _of_file("torn line") is None
    assert _of_file('{"timestamp": "soon"}') is None


def test_the_newest_of_those_later_than_asked() -> None:
    texts = [journal(str(number), __REALTIME_TIMESTAMP=str(number)) for number in range(1, 9)]
    assert [line.text for line in _taken("\n".join(texts), _of_journal, QUERY)] == ["6", "7", "8"]
    later = LogQuery(OWN_LOG, since=7000, lines=3)
    assert [line.text for line in _taken("\n".join(texts), _of_journal, later)] == ["8"]


@given(st.text(max_size=300), st.integers(), st.text(max_size=20))
def test_a_server_may_print_anything(text: str, number: int, word: str) -> None:
    for line in (text, journal(text, __REALTIME_TIMESTAMP=str(number), PRIORITY=word), f'{{"timestamp": "{word}"}}'):
        _taken(line, _of_journal, QUERY)
        _taken(line, _of_file, QUERY)
