"""A call to a peer that is not linked: it waits for the link, moves on when there is none, and can be given up."""

import asyncio
from typing import Any

import pytest

from gridnode.errors import GridError, LinkClosed, NodeNotFound
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, InvocationId, NodeId, Outcome, TaskName
from gridnode.on_demand import OnDemand
from tests.fakes.peers import until

NODE = NodeId("a" * 40)
CALL = Invocation(InvocationId("1"), TaskName("echo"), b"body", 10.0)


class Far:
    """The peer's end; error: why it cannot be reached."""

    def __init__(self, error: GridError | None = None) -> None:
        self.error = error
        self.may_open = asyncio.Event()
        self.calls: list[Invocation] = []
        self.cancelled = 0

    async def dial(self, node: NodeId) -> Any:
        await self.may_open.wait()
        if self.error:
            raise self.error
        return self

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        self.calls.append(call)
        done(Outcome(b"done"))
        return self.cancel

    def cancel(self) -> None:
        self.cancelled += 1


async def test_a_call_waits_for_the_link() -> None:
    far, outcomes = Far(), list[Outcome]()
    cancel = OnDemand(NODE, far.dial).invoke(CALL, outcomes.append)
    await asyncio.sleep(0)
    assert (far.calls, outcomes) == ([], [])
    far.may_open.set()
    await until(lambda: outcomes)
    assert (far.calls, outcomes) == ([CALL], [Outcome(b"done")])
    cancel()
    assert far.cancelled == 1


@pytest.mark.parametrize("error", [LinkClosed("no answer"), NodeNotFound("gone")], ids=repr)
async def test_a_call_to_one_that_cannot_be_reached_never_started_and_may_go_elsewhere(error: GridError) -> None:
    far, outcomes = Far(error), list[Outcome]()
    far.may_open.set()
    OnDemand(NODE, far.dial).invoke(CALL, outcomes.append)
    await until(lambda: outcomes)
    assert not outcomes[0].started
    assert outcomes[0].node == NODE
    assert outcomes[0].error
    assert outcomes[0].error.retryable
    assert outcomes[0].error.message == error.message


async def test_a_call_given_up_while_it_waits_is_never_sent() -> None:
    far, outcomes = Far(), list[Outcome]()
    OnDemand(NODE, far.dial).invoke(CALL, outcomes.append)()
    far.may_open.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (far.calls, outcomes) == ([], [])
