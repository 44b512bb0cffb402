from gridnode.model import Invocation, InvocationId, TaskName
from gridnode.sandbox.seat import Call
from gridnode.sandbox.waiting import Waiting


def entry(number: int, size: int = 1) -> Call:
    return Call(Invocation(InvocationId(""), TaskName("echo"), b"x" * size, 0.0), lambda outcome: None, number)


def test_it_is_bounded_in_calls_and_bytes() -> None:
    queue = Waiting(2, 100)
    assert queue.admits(100)
    assert not queue.admits(101)
    queue.append(entry(1, 60))
    assert (queue.admits(40), queue.admits(41)) == (True, False)
    queue.append(entry(2, 0))
    assert not queue.admits(0)
    assert not Waiting(0, 100).admits(0)


def test_room_is_free_again_whichever_way_a_call_leaves() -> None:
    queue = Waiting(9, 100)
    calls = [entry(number, 30) for number in range(3)]
    for call in calls:
        queue.append(call)
    assert queue.pop() is calls[0]
    queue.remove(calls[2])
    assert (len(queue), queue.first, queue.admits(70), queue.admits(71)) == (1, calls[1], True, False)
    queue.put_back(calls[0])
    assert list(queue) == calls[:2]
    assert queue.admits(40)


def test_it_can_be_emptied_while_it_is_read() -> None:
    queue = Waiting(9, 100)
    for number in range(3):
        queue.append(entry(number))
    for call in queue:
        queue.remove(call)
    assert len(queue) == 0
