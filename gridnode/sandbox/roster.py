"""Which instances one task file should have: events and a clock in, effects out.

Each of the wanted instances has a slot. An instance that ends is started again after a delay that doubles while
instances live for less than `min_uptime`; after more than `max_restarts` in `window` seconds the slot is *errored* and
stays so until somebody restarts the task. A rolling restart fills one slot after the other with a fresh instance, and
retires the old one only when the fresh one is ready.
"""

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from gridnode.model import InstanceId


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds; max_restarts: how many in `window` are still no reason to give up."""

    first: float = 0.1
    last: float = 15.0
    min_uptime: float = 1.0
    max_restarts: int = 10
    window: float = 60.0


class Scaled(NamedTuple):
    """So many instances are wanted; 0 stops the task."""

    wanted: int


class Ready(NamedTuple):
    """The instance started for this slot serves."""

    slot: int
    instance: InstanceId


class StartFailed(NamedTuple):
    """No instance came up for this slot."""

    slot: int
    why: str


class Ended(NamedTuple):
    """An instance that served is gone."""

    instance: InstanceId
    why: str


class Restarted(NamedTuple):
    """Somebody wants every instance fresh, one after the other."""


class Tick(NamedTuple):
    """Time has passed."""


Event = Scaled | Ready | StartFailed | Ended | Restarted | Tick


class Start(NamedTuple):
    """Start an instance for this slot; answer with Ready or StartFailed."""

    slot: int


class Retire(NamedTuple):
    """Send this instance no more calls, let it finish those inside it, and stop it."""

    instance: InstanceId


class GaveUp(NamedTuple):
    """A slot is errored."""

    why: str


Effect = Start | Retire | GaveUp


class SlotState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    ERRORED = "errored"


@dataclass(slots=True)
class Slot:
    """One wanted instance. due: when to start, while waiting; stale: a rolling restart will replace the instance.

    why: how the last one ended that was not asked to, also while another serves.
    """

    number: int
    state: SlotState = SlotState.STARTING
    instance: InstanceId | None = None
    since: float = 0.0
    due: float = 0.0
    delay: float = 0.0
    starting: bool = False
    stale: bool = False
    restarts: int = 0
    recent: deque[float] = field(default_factory=deque)
    why: str = ""


@dataclass(slots=True)
class Roster:
    """The slots of one task file on one node. `now`: any clock that only goes forward, seconds."""

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    slots: list[Slot] = field(default_factory=list)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; what to do about it, in order."""
        match event:
            case Scaled(wanted):
                return self._scale(wanted, now)
            case Ready(number, instance):
                return self._ready(number, instance, now)
            case StartFailed(number, why):
                return self._start_failed(number, why, now)
            case Ended(instance, why):
                return self._ended(instance, why, now)
            case Restarted():
                return self._restart(now)
            case Tick():
                return self._tick(now)

    def next_due(self) -> float | None:
        """When a Tick is wanted next."""
        return min((slot.due for slot in self.slots if slot.state is SlotState.WAITING), default=None)

    def _scale(self, wanted: int, now: float) -> list[Effect]:
        gone, self.slots = self.slots[wanted:], self.slots[:wanted]
        effects: list[Effect] = [Retire(slot.instance) for slot in gone if slot.instance]
        for number in range(len(self.slots), wanted):
            self.slots.append(Slot(number, since=now, delay=self.policy.first))
            effects.append(self._start(self.slots[-1]))
        return effects

    def _start(self, slot: Slot) -> Start:
        slot.starting = True
        if not slot.instance:
            slot.state = SlotState.STARTING
        return Start(slot.number)

    def _ready(self, number: int, instance: InstanceId, now: float) -> list[Effect]:
        if number >= len(self.slots):
            return [Retire(instance)]
        slot = self.slots[number]
        before, slot.instance = slot.instance, instance
        slot.state, slot.since, slot.starting, slot.stale = SlotState.READY, now, False, False
        effects: list[Effect] = [Retire(before)] if before else []
        return effects + self._roll()

    def _start_failed(self, number: int, why: str, now: float) -> list[Effect]:
        if number >= len(self.slots):
            return []
        slot = self.slots[number]
        slot.starting = False
        slot.why = why
        if slot.instance:  # a rolling restart that does not come up leaves what serves
            for one in self.slots:
                one.stale = False
            return [GaveUp(f"the restart was given up: {why}")]
        return self._wait(slot, now)

    def _ended(self, instance: InstanceId, why: str, now: float) -> list[Effect]:
        slot = next((slot for slot in self.slots if slot.instance == instance), None)
        if slot is None:
            return []
        slot.instance, slot.why = None, why
        if now - slot.since >= self.policy.min_uptime:
            slot.delay = self.policy.first
        if slot.starting:  # its replacement is on the way
            slot.state = SlotState.STARTING
            return []
        slot.stale = False
        return self._wait(slot, now)

    def _wait(self, slot: Slot, now: float) -> list[Effect]:
        """Start again after the slot's delay, or give the slot up."""
        slot.restarts += 1
        slot.recent.append(now)
        while now - slot.recent[0] > self.policy.window:
            slot.recent.popleft()
        slot.since = now
        if len(slot.recent) > self.policy.max_restarts:
            slot.state = SlotState.ERRORED
            return [GaveUp(slot.why)]
        slot.state, slot.due = SlotState.WAITING, now + slot.delay
        slot.delay = min(max(slot.delay, 0.001) * 2, self.policy.last)
        return []

    def _restart(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for slot in self.slots:
            slot.recent.clear()
            slot.delay = self.policy.first
            slot.stale = slot.instance is not None
            if not slot.instance and not slot.starting:
                effects.append(self._start(slot))
        return effects + self._roll()

    def _roll(self) -> list[Effect]:
        """The next stale slot, unless a replacement is on the way already."""
        if any(slot.starting and slot.instance for slot in self.slots):
            return []
        stale = next((slot for slot in self.slots if slot.stale and slot.instance and not slot.starting), None)
        return [self._start(stale)] if stale else []

    def _tick(self, now: float) -> list[Effect]:
        due = [slot for slot in self.slots if slot.state is SlotState.WAITING and slot.due <= now]
        return [self._start(slot) for slot in due]
