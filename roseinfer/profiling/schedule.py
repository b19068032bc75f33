"""The profiler's schedule, counted in steps, without torch: skip_first, then (wait, warmup, active) x repeat."""

from dataclasses import dataclass, field
from enum import Enum

from roseinfer.config import ProfileConfig

SCHEDULE_KEYS = ("skip_first", "wait", "warmup", "active", "repeat", "phase", "loop")
"""Settings of a profile that make its schedule."""


class Action(Enum):
    """Action of the profiler during one step."""

    IDLE = "idle"
    WARM = "warm"
    """The profiler is on, and its events are discarded."""
    RECORD = "record"


def steps_needed(config: ProfileConfig) -> int:
    """Return the steps of the whole schedule, if every step has the phase to record."""
    return config.skip_first + config.repeat * (config.wait + config.warmup + config.active)


@dataclass
class Schedule:
    """Chooses the profiler's action for each step. Call `upcoming` once before a step and `advance` once after it.

    A step matches if it has the phase to record. After its warm-up, a cycle stays in warm-up until a step matches.
    Once a cycle has recorded a step, it ends, incomplete, before the first step that does not match.
    """

    config: ProfileConfig
    cycle: int = 0
    """Index of the current cycle, counted from 0; `repeat` when the schedule is finished."""
    recorded: int = 0
    """Steps recorded in the current cycle."""
    _skipped: int = 0
    _waited: int = 0
    _warmed: int = 0
    _action: Action = field(default=Action.IDLE)

    @property
    def is_done(self) -> bool:
        """True if all cycles have ended."""
        return self.cycle >= self.config.repeat

    def upcoming(self, matches: bool) -> Action:
        """Return the action for the next step. Ends a cycle that has recorded steps if the next step does not match."""
        if self.recorded and not matches:
            self._next_cycle()
        self._action = self._choose(matches)
        return self._action

    def advance(self) -> bool:
        """Count a finished step. Return True if it completes a cycle."""
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
