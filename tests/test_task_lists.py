import pytest

from gridnode import messages
from gridnode.errors import BodyInvalid
from gridnode.model import Member, MemberState, NodeId, NodeRecord, TaskName
from gridnode.task_lists import TaskLists, digest_of

NAMES = tuple(TaskName(f"task.number-{number}") for number in range(1500))


def test_a_list_is_known_by_its_digest() -> None:
    lists = TaskLists()
    assert lists.get("") == ()
    digest = digest_of(NAMES)
    assert lists.get(digest) is None
    lists.serve(NAMES)
    assert lists.get(digest) is NAMES
    lists.serve(NAMES[1:])
    assert lists.get(digest) is NAMES, "peers may still serve it"
    assert len(digest) == 32
    assert digest != digest_of(NAMES[1:]) != digest_of(())


def test_what_was_not_asked_for_is_not_taken() -> None:
    lists = TaskLists()
    with pytest.raises(BodyInvalid, match="not the one asked for"):
        lists.take(digest_of(NAMES), NAMES[1:])
    lists.take(digest_of(NAMES), NAMES)
    assert lists.get(digest_of(NAMES)) == NAMES


def test_lists_that_nobody_serves_are_forgotten_and_all_are_bounded() -> None:
    lists = TaskLists()
    lists.serve(own := NAMES[7:])
    digest = digest_of(NAMES)
    lists.take(digest, NAMES)
    lists.keep([digest])
    assert lists.get(digest) == NAMES
    lists.keep([])
    assert lists.get(digest) is None
    many = [tuple(TaskName("x" * 250 + f"{number}-{one}") for one in range(4000)) for number in range(8)]
    for names in many:
        lists.take(digest_of(names), names)
    assert [lists.get(digest_of(names)) is not None for names in many] == [False] * 4 + [True] * 4
    assert lists.get(digest_of(own)) is own
    assert lists.get("") == ()


def test_a_reply_about_200_nodes_that_serve_1500_tasks_is_small() -> None:
    members = [
        Member(
            NodeRecord(NodeId(f"{number:040x}"), f"n{number}", 1, 0, (), "1", 0, tasks=NAMES), MemberState.ALIVE, 1.0
        )
        for number in range(200)
    ]
    body = messages.encode_members(members)
    assert len(body) < 150_000
    told = messages.decode_members(body)
    assert [(one.record.name, one.record.tasks) for one in told] == [(one.record.name, NAMES) for one in members]
    assert len({id(one.record.tasks) for one in told}) == 1


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", messages.encode([1]), messages.encode(["x" * 300]), messages.encode([""] * 2)]
)
def test_hostile_lists_are_refused(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        messages.decode_tasks(body)
