"""When to record: skip_first, then (wait, warmup, active) x repeat, counted in steps. No torch in here."""

from dataclasses import dataclass, field
from enum import Enum

from roseinfer.config import ProfileConfig


class Action(Enum):
    """What the profiler does during one step."""

    IDLE = "idle"
    WARM = "warm"
    """The profiler is on, and what it sees is thrown away."""
    RECORD = "record"


def steps_needed(config: ProfileConfig) -> int:
    """Steps that the whole schedule takes when no phase is waited for."""
    return config.skip_first + config.repeat * (config.wait + config.warmup + config.active)


@dataclass
class Schedule:
    """Which action each step gets. Call `upcoming` once before a step and `advance` once after it.

    `matches` says whether the step is of the phase to record. A cycle whose turn has come waits for such a step, warm;
    one that has begun ends, incomplete, before a step that does not match.
    """

    config: ProfileConfig
    cycle: int = 0
    """The cycle that goes on, counted from 0; `repeat` when the schedule is done."""
    recorded: int = 0
    """Steps recorded of this cycle."""
    _skipped: int = 0
    _waited: int = 0
    _warmed: int = 0
    _action: Action = field(default=Action.IDLE)

    @property
    def is_done(self) -> bool:
        return self.cycle >= self.config.repeat

    def upcoming(self, matches: bool) -> Action:
        """What the profiler does during the next step; may end a cycle that no longer matches."""
        if self.recorded and not matches:
            self._next_cycle()
        self._action = self._choose(matches)
        return self._action

    def advance(self) -> bool:
        """The step is over; whether a cycle is complete with it."""
        config = self.config
        if self.is_done:
            return False
        if self._action is Action.RECORD:
            self.recorded += 1
            if self.recorded == config.active:
                self._next_cycle()
                return True
        elif self._skipped < config.skip_first:
            self._skipped += 1
        elif self._waited < config.wait:
            self._waited += 1
        elif self._warmed < config.warmup:
            self._warmed += 1
        return False

    def _choose(self, matches: bool) -> Action:
        config = self.config
        if self.is_done or self._skipped < config.skip_first or self._waited < config.wait:
            return Action.IDLE
        if self._warmed < config.warmup:
            return Action.WARM
        if matches:
            return Action.RECORD
        return Action.WARM if config.warmup else Action.IDLE

    def _next_cycle(self) -> None:
        self.cycle += 1
        self.recorded = self._waited = self._warmed = 0
