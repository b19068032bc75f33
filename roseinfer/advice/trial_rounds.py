"""Measure contenders in interleaved rounds, until each of them is decided.

Nothing here knows an engine: tests use scripted contenders and simulated time.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from roseinfer.advice.levers import Settings
from roseinfer.advice.paired_gains import (
    MIN_GAIN_PERCENT,
    MIN_PAIRS,
    Gain,
    Outcome,
    chained,
    control_spread,
    is_decided,
    outcome,
    paired_gain,
)
from roseinfer.errors import RoseinferError

_PATIENCE = 3
"""How many times as many rounds a change gets that seems to help, but is not decided."""

OnEvent = Callable[[str, dict[str, Any]], None]
"""Called with the name of an event and its fields while advice is tried."""


class Contender(Protocol):
    """An engine with some settings, in a process of its own."""

    def warm_up(self) -> None:
        """Wait until the engine is built, and run the workload once. Raises RoseinferError if it cannot run."""

    def sample(self) -> float:
        """Run the workload; return its cost, in s per token. Raises RoseinferError if the engine fails."""

    def close(self) -> None:
        """End the process. May be called twice."""


class Candidate(msgspec.Struct, frozen=True):
    """A change to try."""

    settings: Settings
    keeps_numbers: bool = True
    """False if the change reduces the precision of the model's numbers."""


class Entry:
    """A candidate in a comparison: its process, and its costs beside the reference's in the same rounds."""

    def __init__(self, candidate: Candidate, contender: Contender, reference: "Entry | None" = None) -> None:
        self.candidate, self.contender = candidate, contender
        self._beside = reference
        """The entry whose contender is the reference; None if that is the original."""
        self.costs: list[float] = []
        self.reference: list[float] = []
        self.spread = 0.0
        """By how much equal contenders differed in the comparison: root mean square of log ratios."""
        self.failure: str | None = None
        """Why it could not be measured, for the user; None if it could."""
        self.confirmed: Gain | None = None
        """Gain of a second measurement against the original; None if there was none."""

    @property
    def over(self) -> Settings:
        """Settings of the reference, as far as they differ from the original's."""
        return {} if self._beside is None else self._beside.candidate.settings

    @property
    def gain(self) -> Gain | None:
        """Gain over the reference; None before the third round."""
        return paired_gain(self.reference, self.costs, self.spread) if len(self.costs) >= MIN_PAIRS else None

    @property
    def gain_over_original(self) -> Gain | None:
        """Gain over the original; None before the third round.

        It is that of the measurement that confirmed it, or else the product of the steps that led to it.
        """
        before = None if self._beside is None else self._beside.gain_over_original
        if self.confirmed is not None or self.gain is None or before is None:
            return self.confirmed or self.gain
        return chained([self.gain, before])

    @property
    def is_chained(self) -> bool:
        """Whether `gain_over_original` is a product."""
        return self.confirmed is None and self._beside is not None and self._beside.gain is not None

    @property
    def outcome(self) -> Outcome | None:
        """Whether it helped; None before the third round."""
        gain = self.gain
        return None if gain is None else outcome(gain, self.spread)


class Rounds:
    """Interleaved measurements of one search, and the spread of equal contenders that they found."""

    def __init__(self, *, now_s: Callable[[], float], rng: random.Random, on_event: OnEvent, max_pairs: int) -> None:
        self._now_s, self._rng, self._on_event, self._max_pairs = now_s, rng, on_event, max_pairs
        self.spread = 0.0
        """Root mean square of the log ratios of the original's and its control's costs."""
        self.is_cut_short = False
        """True if a comparison ended before all of its candidates were decided."""
        self.sample_s = 0.0
        """Shortest time of a sample of the last reference: others may have been disturbed."""
        self._shortest_s: dict[int, float] = {}
        """Shortest time of a sample of each contender in the last comparison, by id."""

    def compare(
        self,
        reference: Contender,
        entries: Sequence[Entry],
        until_s: float,
        *,
        control: Contender | None = None,
        enough_s: float = math.inf,
    ) -> float:
        """Measure every entry against the reference; return the spread of equal contenders.

        Ends when all entries are decided, when the time is `until_s`, or when it is `enough_s` and one has helped.
        After the usual number of rounds, only entries that seem to gain something are measured, for up to
        `_PATIENCE` times as many rounds. The control is a second contender with the reference's settings, which is
        measured in the same rounds; without one, equal contenders differ as the original and its control did.
        """
        left = [entry for entry in entries if entry.failure is None]
        before: list[float] = []
        again: list[float] = []
        spread, round_s = self.spread, 0.0
        self._shortest_s.clear()
        for number in range(_PATIENCE * self._max_pairs):
            if number >= self._max_pairs:
                left = [entry for entry in left if _seems_to_gain(entry)]
            if not left:
                return spread
            now_s = self._now_s()
            if now_s + round_s > until_s or (now_s > enough_s and any(each.outcome == "helped" for each in entries)):
                break
            others = [entry.contender for entry in left] + ([] if control is None else [control])
            costs = self._round([reference, *others], left)
            if costs is None:
                break
            before.append(costs[id(reference)])
            if control is not None and id(control) not in costs:
                control = None  # it failed: what it showed until now must do
            elif control is not None:
                again.append(costs[id(control)])
                spread = control_spread(before, again)
            for entry in left:
                entry.spread = spread
            left = [entry for entry in left if self._goes_on(entry, costs, before[-1])]
            self.sample_s = self._shortest_s[id(reference)]
            round_s = (1 + len(others)) * min(self._shortest_s.values())  # at least: a disturbed round says little
        self.is_cut_short |= any(len(entry.costs) < self._max_pairs for entry in left)
        return spread

    def _round(self, contenders: list[Contender], entries: list[Entry]) -> dict[int, float] | None:
        """Return a sample of each contender by id, measured in random order; None if the time is over."""
        of_contender = {id(entry.contender): entry for entry in entries}
        order = list(contenders)
        self._rng.shuffle(order)
        costs: dict[int, float] = {}
        for contender in order:
            began_s = self._now_s()
            try:
                costs[id(contender)] = contender.sample()
            except TimeoutError:
                return None
            except RoseinferError as error:
                if contender is contenders[0]:
                    raise
                if (entry := of_contender.get(id(contender))) is not None:
                    entry.failure = str(error)
            took_s = self._now_s() - began_s
            self._shortest_s[id(contender)] = min(took_s, self._shortest_s.get(id(contender), took_s))
        return costs

    def _goes_on(self, entry: Entry, costs: dict[int, float], reference: float) -> bool:
        """Add a round to an entry; return whether it needs another one."""
        if entry.failure is not None:
            return False
        entry.costs.append(costs[id(entry.contender)])
        entry.reference.append(reference)
        gain = entry.gain
        if gain is None:
            return True
        settings, saves_percent = entry.candidate.settings, round(gain.saves_percent, 2)
        self._on_event("round", {"settings": settings, "saves_percent": saves_percent, "over": entry.over})
        return not is_decided(gain, entry.spread)


def _seems_to_gain(entry: Entry) -> bool:
    gain = entry.gain
    return gain is not None and gain.saves_percent > MIN_GAIN_PERCENT
