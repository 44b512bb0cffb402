"""Calls with an idempotency key, where they run: the first runs, the others get what became of it."""

import asyncio
import hashlib
import itertools

import structlog

from gridnode.errors import BodyInvalid, CallTimeout, GridError, KeyReused
from gridnode.link import Cancel, Invoker, nothing_to_cancel
from gridnode.model import Done, Invocation, Outcome
from gridnode.receipts import Receipt, Receipts

log = structlog.get_logger()


class Keyed:
    """An Invoker in front of this node's pool. A call without a key passes.

    One with a key goes on when its callers leave, until its own deadline: a caller that comes back gets its outcome.
    """

    def __init__(self, pool: Invoker, receipts: Receipts) -> None:
        self._pool = pool
        self._receipts = receipts
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._forgot = False

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run the call, or wait for, or tell, what became of the first one with its key; KeyReused for another call."""
        if not call.key:
            return self._pool.invoke(call, done)
        if call.stream:
            error = BodyInvalid(f"{call.task}: a stream cannot have an idempotency key: nothing of it is kept")
            done(Outcome(error=error, started=False))
            return nothing_to_cancel
        mark = hashlib.sha256(call.task.encode() + b"\0" + call.body).digest()
        receipt = self._receipts.find(call.key, self._loop.time())
        if receipt is None:
            return self._run(call, mark, done)
        if receipt.mark != mark:
            reused = KeyReused(f"{call.task}: the idempotency key was used for another task or argument")
            done(Outcome(error=reused, started=False))
        elif receipt.outcome:
            done(receipt.outcome)
        else:
            return self._wait(receipt, call, done)
        return nothing_to_cancel

    def _run(self, call: Invocation, mark: bytes, done: Done) -> Cancel:
        try:
            receipt = self._receipts.open(call.key, mark)
        except GridError as exc:
            done(Outcome(error=exc, started=False))
            return nothing_to_cancel
        number = next(self._numbers)
        receipt.waiting[number] = done
        self._pool.invoke(call, lambda outcome: self._over(receipt, outcome))
        return lambda: _leave(receipt, number)

    def _over(self, receipt: Receipt, outcome: Outcome) -> None:
        if outcome.error and not outcome.started:
            self._receipts.drop(receipt)
        else:
            forgotten = self._receipts.keep(receipt, outcome, self._loop.time())
            if forgotten and not self._forgot:
                self._forgot = True
                log.warning("outcomes of idempotency keys are forgotten early", hint="GRIDNODE_MAX_KEYS")
        waiting, receipt.waiting = receipt.waiting, {}
        for done in waiting.values():
            done(outcome)

    def _wait(self, receipt: Receipt, call: Invocation, done: Done) -> Cancel:
        """Tell the outcome when it is there, or CallTimeout at the caller's own deadline."""
        number = next(self._numbers)

        def tell(outcome: Outcome) -> None:
            timer.cancel()
            done(outcome)

        def late() -> None:
            _leave(receipt, number)
            error = CallTimeout(f"{call.task}: no result before the deadline; the first call with this key goes on")
            done(Outcome(error=error))

        def leave() -> None:
            timer.cancel()
            _leave(receipt, number)

        timer = self._loop.call_at(call.deadline, late)
        receipt.waiting[number] = tell
        return leave


def _leave(receipt: Receipt, number: int) -> None:
    receipt.waiting.pop(number, None)
