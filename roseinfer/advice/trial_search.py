"""Search for the settings that help: each change alone, then combinations, within a budget of time.

1. The original, a second original (the control) and the changes alone are measured in interleaved rounds.
2. From the best change on, each step measures the other changes on top of the best settings so far, one by one and all
   together, and adopts what helped most, until nothing does. A second process with the best settings is the control of
   a step. Changes that reduce precision are tried last, on top of the rest.
3. The combination is measured against the original: in fresh processes, if the budget allows. So is a change alone,
   unless it saved more than fresh processes differ.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import msgspec

from roseinfer.advice.levers import Settings
from roseinfer.advice.paired_gains import MIN_GAIN_PERCENT, MIN_PAIRS
from roseinfer.advice.trial_result import Combined, SearchResult, Trial, Untried
from roseinfer.advice.trial_rounds import Candidate, Contender, Entry, OnEvent, Rounds
from roseinfer.errors import RoseinferError, UsageError

_SINGLES_SHARE = 0.6
"""Share of the budget after which no further change is tried alone."""
_FIRST_WAVE_SHARE = 0.9
"""The same for the first changes: without them, nothing can be combined."""
_HOPELESS_PERCENT = -10.0
"""A change that clearly loses more than this is not tried again on top of others."""
_CLEAR_PERCENT = 10.0
"""A change alone that clearly saves more than this is not measured again in fresh processes."""
_CONFIRMING = 1.5
"""Time of a round that measures a combination, relative to that of the original alone."""

OTHER_CONTENDERS = 3
"""Contenders that may exist beside the changes: the original, the best settings so far, and a control."""

Start = Callable[[Sequence[Settings]], Sequence[Contender]]
"""Starts a contender per item, which build at the same time. The settings are those that differ from the original."""


class SearchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a search may take, and how much it runs at once."""

    budget_s: float
    max_pairs: int = 8
    """Rounds after which a change without a clear outcome counts as having none."""
    residents: int = 8
    """Changes whose processes exist at the same time."""
    parallel_starts: int = 2
    """Processes that start as fast together as alone."""


class OriginalError(UsageError):
    """The original cannot be measured, so nothing can be compared with it."""


def search(
    candidates: Sequence[Candidate],
    start: Start,
    *,
    limits: SearchLimits,
    now_s: Callable[[], float],
    rng: random.Random,
    on_event: OnEvent = lambda _name, _fields: None,
) -> SearchResult:
    """Measure candidates, given in order of their promise, and combine those that help.

    KeyboardInterrupt ends the search with what it has, and so does a failure of the original or of the best settings
    so far. Without a measured change, KeyboardInterrupt or OriginalError is raised. OriginalError also says that the
    budget ended before the original had run once.
    """
    running = _Search(start, limits, now_s, on_event, rng)
    try:
        return running.result_of(list(candidates))
    finally:
        running.close_all()


class _Search:
    """State of one search."""

    def __init__(
        self, start: Start, limits: SearchLimits, now_s: Callable[[], float], on_event: OnEvent, rng: random.Random
    ) -> None:
        self._start, self._limits, self._now_s, self._on_event = start, limits, now_s, on_event
        self._rounds = Rounds(now_s=now_s, rng=rng, on_event=on_event, max_pairs=limits.max_pairs)
        self._began_s = now_s()
        self._ends_s = self._began_s + limits.budget_s
        self._open: list[Contender] = []
        self._alone: list[Entry] = []
        """Changes that were started alone, in the order of the candidates."""
        self._top: Entry | None = None
        """The best settings that keep the precision of numbers; None if nothing has helped so far."""
        self._reduced: Entry | None = None
        """The best settings with reduced precision: alone, or on top of the others once that was measured."""
        self._is_complete = True
        self._start_s = 0.0
        """Time from the start of two processes of the original until both were warm."""
        self._confirm_s = 0.0
        """Time to keep for measuring the combination against the original."""

    def close_all(self) -> None:
        """End all processes that are left."""
        self._close_but()

    def result_of(self, candidates: list[Candidate]) -> SearchResult:
        """Run the search, or the part of it before it is interrupted or an engine fails that others need."""
        reason, failure = "the budget ended", None
        is_interrupted = False
        try:
            self._run(candidates)
        except KeyboardInterrupt:
            if not self._trials():
                raise
            reason, is_interrupted = "the search was interrupted", True
        except RoseinferError as error:
            if not self._trials():
                raise OriginalError(str(error)) from error
            reason, failure = "the search ended early", str(error)
        untried = [Untried(each.candidate, each.failure or reason) for each in self._alone if each.gain is None]
        untried += [Untried(each, reason) for each in candidates[len(self._alone) :]]
        is_cut_short = self._rounds.is_cut_short or any(each.reason == reason for each in untried)
        combined = _combined(self._top) or _combined(self._best(self._alone, True))
        reduced = _combined(self._reduced)
        if combined is not None and reduced is not None and reduced.gain.speedup <= combined.gain.speedup:
            reduced = None
        return SearchResult(
            control_percent=100 * (self._rounds.spread or max((each.spread for each in self._alone), default=0.0)),
            trials=self._trials(),
            untried=untried,
            combined=combined,
            reduced=reduced,
            is_complete=self._is_complete and not (is_cut_short or is_interrupted or failure is not None),
            is_interrupted=is_interrupted,
            failure=failure,
        )

    def _run(self, candidates: list[Candidate]) -> None:
        """Run the three parts of the search."""
        self._measure_alone(candidates)
        hopeful = [each.candidate for each in self._trials() if each.gain.high_percent > _HOPELESS_PERCENT]
        self._climb([each for each in hopeful if each.keeps_numbers])
        if self._top is not None:
            base = self._top.candidate.settings
            reduced = [Candidate({**base, **each.settings}, False) for each in hopeful if not each.keeps_numbers]
            if entries := self._step(self._top, reduced):
                self._reduced = self._best(entries, False)
            self._is_complete &= len(entries) == len(reduced)
        self._confirm()

    def _trials(self) -> list[Trial]:
        """Return the changes that were measured alone, so far."""
        return [
            Trial(each.candidate, each.gain, each.outcome)
            for each in self._alone
            if each.gain is not None and each.outcome is not None
        ]

    # Each change alone.

    def _measure_alone(self, candidates: list[Candidate]) -> None:
        """Measure each change alone, in waves of processes that exist at once."""
        until_s = self._began_s + _FIRST_WAVE_SHARE * self._limits.budget_s
        enough_s = self._began_s + _SINGLES_SHARE * self._limits.budget_s
        self._original, control = self._launched([{}, {}])
        if not self._are_warm([self._original, control]):
            raise OriginalError("the budget ended before the run itself was measured: give a longer --budget")
        self._start_s = self._now_s() - self._launched_s
        while wave := self._next_wave(candidates[len(self._alone) :], until_s):
            entries = self._entries(wave)
            self._alone += entries
            self._warm_up(entries, until_s)
            is_known = self._rounds.spread > 0
            self._rounds.spread = self._rounds.compare(
                self._original, entries, until_s, control=None if is_known else control, enough_s=enough_s
            )
            for entry in entries:
                self._report(entry)
            until_s = enough_s
            self._top, self._reduced = self._best(self._alone, True), self._best(self._alone, False)
            self._close_but(self._original, control, *_contenders(self._top))
        self._close_but(self._original, *_contenders(self._top))
        self._confirm_s = _CONFIRMING * MIN_PAIRS * self._rounds.sample_s

    def _next_wave(self, candidates: list[Candidate], until_s: float) -> list[Candidate]:
        """Return the changes whose processes to start next.

        Starting them may take half of the time that is left until then.
        """
        left_s = until_s - self._now_s() - MIN_PAIRS * self._rounds.sample_s
        batches = int(left_s / 2 / self._start_s) if self._start_s > 0 else len(candidates)
        size = min(self._limits.residents, batches * self._limits.parallel_starts)
        if size < 1 and self._start_s < left_s:
            size = 1
        return candidates[: max(size, 0)]

    def _report(self, entry: Entry) -> None:
        if entry.gain is None:
            return
        self._on_event(
            "tried",
            {
                "settings": entry.candidate.settings,
                "saves_percent": round(entry.gain.saves_percent, 2),
                "noise_percent": round(entry.gain.noise_percent, 2),
                "outcome": entry.outcome,
            },
        )

    # Combinations.

    def _climb(self, candidates: list[Candidate]) -> None:
        """Replace the best settings by better ones, in steps, until no change helps.

        A step measures each change on top of the best settings so far, and all of them together, since each may gain
        too little to be seen, or help only beside another. It adopts what helps most. After all together, the next step
        also measures each of them left out. Changes that cost time when last measured wait until no other helps.
        """
        top = self._top or Entry(Candidate({}), self._original)
        saved = {id(each.candidate): each.gain.saves_percent for each in self._trials()}
        measured = [{}, *(each.candidate.settings for each in self._alone)]
        are_together = False
        while True:
            base = top.candidate.settings
            left = sorted((each for each in candidates if _adds(each, base)), key=lambda each: -saved[id(each)])
            added = [each for each in left if {**base, **each.settings} not in measured]
            added = [each for each in added if saved[id(each)] > 0] or added
            everything = {**base, **_together([each for each in left if saved[id(each)] > MIN_GAIN_PERCENT])}
            tried = [everything, *({**base, **each.settings} for each in added)]
            if are_together:
                tried += [_without(each, base) for each in candidates]
            tried = [each for number, each in enumerate(tried) if each not in [*measured, *tried[:number]]]
            entries = self._step(top, [Candidate(each) for each in tried])
            if not entries:
                return
            for each, entry in itertools.product(added, entries):
                if entry.candidate.settings == {**base, **each.settings}:
                    saved[id(each)] = _saves(entry)
            measured += [each.candidate.settings for each in entries]
            best = self._best(entries, True)
            if best is not None:
                self._on_event("combined", {"settings": best.candidate.settings})
                are_together = best.candidate.settings == everything
                top = self._top = best
                self._close_but(self._original, top.contender)

    def _step(self, top: Entry, candidates: list[Candidate]) -> list[Entry]:
        """Measure settings against the best ones so far, as many as there is time for."""
        until_s = self._ends_s - self._confirm_s
        wave = self._next_wave(candidates, until_s)
        if not wave:
            self._is_complete &= not candidates
            return []
        # Faster settings have noise of their own: the control of the original says nothing about it.
        control, *entries = self._entries([top.candidate, *wave], top)
        self._warm_up([control, *entries], until_s)
        self._rounds.compare(top.contender, entries, until_s, control=None if control.failure else control.contender)
        best = self._best(entries, candidates[0].keeps_numbers)
        self._close_but(self._original, top.contender, *_contenders(best))
        return entries

    def _confirm(self) -> None:
        """Measure settings against the original again, in fresh processes of both sides if there is time.

        Two processes with equal settings differ, which more rounds of the same processes do not show. A change alone is
        measured again only if such a difference could explain its gain, and there is time for fresh processes. If the
        gain is seen again, but not clearly, what was measured before is kept.
        """
        found = [each for each in (self._top, self._reduced) if each is not None]
        if (single := self._best(self._alone, True)) is not None and single is not self._top:
            found.append(single)  # reported if the best settings turn out to gain nothing
        start_s = self._start_s * math.ceil((1 + len(found)) / self._limits.parallel_starts)
        is_time = self._now_s() + start_s + self._confirm_s <= self._ends_s
        found = [each for each in found if each not in self._alone or (is_time and not _is_large(each))]
        if not found:
            return
        entries = [Entry(each.candidate, each.contender) for each in found]
        if is_time:
            self.close_all()
            self._original, *fresh = self._launched([{}, *(each.candidate.settings for each in found)])
            if not self._are_warm([self._original]):
                return
            entries = [Entry(each.candidate, contender) for each, contender in zip(found, fresh, strict=True)]
            self._warm_up(entries, self._ends_s)
        self._rounds.compare(self._original, entries, self._ends_s)
        for each, again in zip(found, entries, strict=True):
            if again.outcome == "helped" or _saves(again) <= MIN_GAIN_PERCENT:
                each.confirmed = again.gain

    # Processes, and the time that they need.

    def _launched(self, settings: Sequence[Settings]) -> list[Contender]:
        self._on_event("starting", {"settings": list(settings)})
        self._launched_s = self._now_s()
        started = list(self._start(settings))
        self._open += started
        return started

    def _entries(self, candidates: Sequence[Candidate], reference: Entry | None = None) -> list[Entry]:
        """Start a process per candidate, to be compared with a reference, or with the original."""
        contenders = self._launched([each.settings for each in candidates])
        return [
            Entry(candidate, contender, reference) for candidate, contender in zip(candidates, contenders, strict=True)
        ]

    def _are_warm(self, originals: Sequence[Contender]) -> bool:
        """Warm up processes of the original; return whether the budget was enough."""
        try:
            for original in originals:
                original.warm_up()
        except TimeoutError:
            self._is_complete = False
            return False
        return True

    def _warm_up(self, entries: Sequence[Entry], until_s: float) -> None:
        """Warm up processes that were just launched. Those that fail, or that have no time left, get a failure."""
        for entry in entries:
            if self._now_s() > until_s:
                entry.failure = "the budget ended"
                self._is_complete = False
                continue
            try:
                entry.contender.warm_up()
            except TimeoutError:
                entry.failure = "the budget ended"
                self._is_complete = False
            except RoseinferError as error:
                entry.failure = str(error)

    def _best(self, entries: Sequence[Entry], keeps_numbers: bool) -> Entry | None:
        """Return the entry that saves most, of those that helped."""
        helped = [
            entry for entry in entries if entry.candidate.keeps_numbers == keeps_numbers and entry.outcome == "helped"
        ]
        return max(helped, key=_saves, default=None)

    def _close_but(self, *kept: Contender) -> None:
        """End all other processes."""
        while ended := [each for each in self._open if all(each is not one for one in kept)]:
            ended[0].close()
            self._open.remove(ended[0])


def _contenders(entry: Entry | None) -> list[Contender]:
    return [] if entry is None else [entry.contender]


def _saves(entry: Entry) -> float:
    return entry.gain.saves_percent if entry.gain is not None else 0.0


def _is_large(entry: Entry) -> bool:
    """Return whether a gain is larger than the difference of processes with equal settings."""
    return entry.gain is not None and entry.gain.low_percent > _CLEAR_PERCENT


def _combined(entry: Entry | None) -> Combined | None:
    """Return the settings of an entry with their gain over the original; None if they have none."""
    gain = None if entry is None else entry.gain_over_original
    if entry is None or gain is None or gain.low_percent <= 0 or gain.saves_percent <= MIN_GAIN_PERCENT:
        return None
    return Combined(entry.candidate.settings, gain, entry.is_chained)


def _together(candidates: Sequence[Candidate]) -> Settings:
    """Return the settings of all changes. Of several values of a setting, the first is kept."""
    settings: Settings = {}
    for each in candidates:
        settings = {**each.settings, **settings}
    return settings


def _without(candidate: Candidate, settings: Settings) -> Settings:
    """Return settings without those of a change; nothing if they do not contain it."""
    if not candidate.settings.items() <= settings.items():
        return {}
    return {key: value for key, value in settings.items() if key not in candidate.settings}


def _adds(candidate: Candidate, settings: Settings) -> bool:
    """Return whether a candidate changes a setting that others leave alone.

    Another value of a setting that they have is none: the values were measured against each other before.
    """
    return not set(candidate.settings) <= set(settings)
