import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl import window as module
from gridctl.window import Window
from gridnode.errors import BodyTooLarge, NoCapacity, TaskRaised, UsageError
from gridnode.model import Outcome
from tests.fakes.peers import until

BUSY = Outcome(error=NoCapacity("busy"), started=False)


class Started:
    """A call that ends when the test says so."""

    def __init__(self, body: bytes, done: Callable[[Outcome], None]) -> None:
        self.body = body
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def end(self, outcome: Outcome | None = None) -> None:
        self.done(outcome or Outcome(self.body))


class Calls(list[Started]):
    def __call__(self, body: bytes, done: Callable[[Outcome], None]) -> Started:
        self.append(Started(body, done))
        return self[-1]


def bodies(outcomes: list[Outcome]) -> list[bytes]:
    return [outcome.body for outcome in outcomes]


async def test_so_many_are_under_way_and_as_many_wait() -> None:
    calls = Calls()
    window = Window(calls, 2)
    for number in range(4):
        assert window.room == 4 - number
        window.put(b"%d" % number)
    assert (len(calls), window.room) == (2, 0)
    calls[0].end()
    assert [call.body for call in calls] == [b"0", b"1", b"2"]
    assert window.room == 0  # until it is taken
    assert bodies(window.take()) == [b"0"]
    assert window.room == 1


@given(st.permutations(range(8)), st.integers(1, 8))
async def test_in_order_or_as_they_end(order: list[int], concurrency: int) -> None:
    for ordered in (True, False):
        calls, ended, taken = Calls(), [], []
        window = Window(calls, concurrency, ordered)
        put = 0
        while len(taken) < 8:
            while put < 8 and window.room:
                window.put(b"%d" % put)
                put += 1
            ready = [number for number in order if number < len(calls) and number not in ended]
            if ready:
                ended.append(ready[0])
                calls[ready[0]].end()
            taken += [int(body) for body in bodies(window.take())]
        assert taken == (list(range(8)) if ordered else ended)
        assert window.empty
        assert window.room == 2 * concurrency


async def test_waiting_ends_with_something_to_take_or_a_ring() -> None:
    calls = Calls()
    window = Window(calls, 2)
    window.put(b"0")
    window.put(b"1")
    waiting = asyncio.ensure_future(window.wait())
    await asyncio.sleep(0)
    calls[1].end()
    await asyncio.sleep(0)
    assert not waiting.done()  # it is not its turn
    calls[0].end()
    await waiting
    assert bodies(window.take()) == [b"0", b"1"]
    waiting = asyncio.ensure_future(window.wait())
    await asyncio.sleep(0)
    window.ring()
    await waiting


async def test_what_finds_no_room_goes_again() -> None:
    calls = Calls()
    window = Window(calls, 1)
    window.put(b"0")
    calls[0].end(BUSY)
    assert window.take() == []
    await until(lambda: len(calls) == 2)
    calls[1].end()
    assert bodies(window.take()) == [b"0"]
    impatient = Window(calls, 1, patient=False)
    impatient.put(b"1")
    calls[2].end(BUSY)
    assert impatient.take() == [BUSY]


async def test_a_refused_call_has_no_patience_while_nothing_gets_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    calls = Calls()
    window = Window(calls, 2)
    window.put(b"0")
    calls[0].end(BUSY)
    assert window.take() == [BUSY]
    window.put(b"1")
    window.put(b"2")
    monkeypatch.setattr(module, "_LET_IN", -1.0)
    calls[1].end(BUSY)
    assert window.take() == [], "another call of the window is under way: there is room for it soon"
    await until(lambda: len(calls) == 4)
    window.close()


async def test_what_ran_is_never_sent_again() -> None:
    calls = Calls()
    window = Window(calls, 1)
    window.put(b"0")
    ran = Outcome(error=TaskRaised("no"))
    calls[0].end(ran)
    assert window.take() == [ran]
    assert len(calls) == 1


async def test_closing_gives_up_what_is_under_way() -> None:
    calls = Calls()
    window = Window(calls, 2)
    for number in range(4):
        window.put(b"%d" % number)
    calls[0].end(BUSY)  # it waits to go again
    window.close()
    window.close()
    assert calls[1].cancelled
    assert window.empty
    calls[1].end()
    assert window.take() == []
    await asyncio.sleep(0.05)
    assert len(calls) == 2


async def test_errors_of_items_and_of_sending_are_outcomes() -> None:
    too_large = BodyTooLarge("too large")

    def start(body: bytes, done: Callable[[Outcome], None]) -> Started:
        raise too_large

    window = Window(start, 1)
    window.put(b"x")
    window.put(too_large)
    assert [outcome.error for outcome in window.take()] == [too_large, too_large]
    assert window.room == 2


@pytest.mark.parametrize("concurrency", [0, -1, 1025])
async def test_concurrency_is_bounded(concurrency: int) -> None:
    with pytest.raises(UsageError):
        Window(Calls(), concurrency)
