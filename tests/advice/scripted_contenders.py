"""Scripted engines in simulated time: each setting has a known effect on the cost, with noise of known size."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roseinfer.advice.levers import Settings
from roseinfer.advice.trial_result import SearchResult
from roseinfer.advice.trial_search import Candidate, SearchLimits, search
from roseinfer.errors import RoseinferError

Cost = Callable[[Settings], float]
"""Returns the cost of settings, in s per token."""


class ScriptedMachine:
    """A machine on which starting an engine takes `start_s`, and a pass as long as its cost times 100 tokens."""

    def __init__(
        self,
        cost: Cost,
        *,
        seed: int = 0,
        noise: float | Callable[[Settings], float] = 0.0,
        offset: float = 0.0,
        drift: float = 0.0,
        spikes: float = 0.0,
        fails: Sequence[Settings] = (),
        start_s: float = 5.0,
    ) -> None:
        self.cost, self.noise, self.offset, self.drift, self.spikes, self.fails = (
            cost,
            noise,
            offset,
            drift,
            spikes,
            fails,
        )
        self.start_s = start_s
        self.rng = random.Random(seed)
        self.time_s = 1000.0
        self.speed = 1.0
        self.ends_s = math.inf
        self.started: list[Settings] = []
        self.samples = 0
        self.interrupted_at = math.inf
        self.open = 0
        self.pauses: list[float] = []
        """Times, in s, that the next passes take in addition."""

    def now_s(self) -> float:
        return self.time_s

    def start(self, settings: Sequence[Settings]) -> list["ScriptedContender"]:
        self.started += settings
        return [ScriptedContender(self, one) for one in settings]

    def search(self, candidates: Sequence[Candidate], budget_s: float = 1e9, **limits: Any) -> SearchResult:
        self.ends_s = self.time_s + budget_s
        return search(
            candidates,
            self.start,
            limits=SearchLimits(budget_s=budget_s, **limits),
            now_s=self.now_s,
            rng=random.Random(1),
        )


class ScriptedContender:
    """An engine of a scripted machine."""

    def __init__(self, machine: ScriptedMachine, settings: Settings) -> None:
        self._machine, self._settings = machine, settings
        self._noise = machine.noise(settings) if callable(machine.noise) else machine.noise
        self._mine = math.exp(machine.rng.gauss(0, machine.offset)) * machine.cost(settings)
        self.fails_after = math.inf
        """Samples after which the engine fails."""
        self._is_open = True
        machine.open += 1

    def warm_up(self) -> None:
        if self._settings in self._machine.fails:
            raise RoseinferError("this engine cannot run")
        self._spend(self._machine.start_s)
        self.sample()

    def sample(self) -> float:
        assert self._is_open
        machine = self._machine
        machine.samples += 1
        self.fails_after -= 1
        if self.fails_after < 0:
            raise RoseinferError("this engine failed")
        if machine.samples > machine.interrupted_at:
            raise KeyboardInterrupt
        machine.speed *= math.exp(machine.rng.gauss(0, machine.drift))
        spike = machine.rng.random() * 2 if machine.rng.random() < machine.spikes else 0.0
        cost = self._mine * machine.speed * math.exp(machine.rng.gauss(0, self._noise)) * (1 + spike)
        self._spend(100 * cost + (machine.pauses.pop() if machine.pauses else 0))
        return cost

    def close(self) -> None:
        self._machine.open -= self._is_open
        self._is_open = False

    def _spend(self, seconds: float) -> None:
        if self._machine.time_s + seconds > self._machine.ends_s:
            self._machine.time_s = self._machine.ends_s
            raise TimeoutError
        self._machine.time_s += seconds


def factors(effects: Mapping[str, float], base: float = 0.01) -> Cost:
    """Return a cost that each setting of `effects` multiplies by its factor, whatever its value."""
    return lambda settings: base * math.prod(effects.get(key, 1.0) for key in settings)
