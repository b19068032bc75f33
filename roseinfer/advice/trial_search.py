"""Search for the settings that help: each change alone, then combinations, within a budget of time.

1. The original, a second original (the control) and the changes alone are measured in interleaved rounds.
2. From the best change on, each step measures the other changes on top of the best settings so far, one by one and all
   together, and adopts what helped most, until nothing does. A second process with the best settings is the control of
   a step. Changes that reduce precision are tried last, on top of the rest.
3. The combination is measured against the original: in fresh processes, if the budget allows.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from roseinfer.advice.levers import Settings
from roseinfer.advice.paired_gains import MIN_GAIN_PERCENT, MIN_PAIRS, Gain, Outcome
from roseinfer.advice.trial_rounds import Candidate, Contender, Entry, OnEvent, Rounds
from roseinfer.errors import RoseinferError, UsageError

_SINGLES_SHARE = 0.6
"""Share of the budget after which no further change is tried alone."""
_FIRST_WAVE_SHARE = 0.9
"""The same for the first changes: without them, nothing can be combined."""
_HOPELESS_PERCENT = -10.0
"""A change that clearly loses more than this is not tried again on top of others."""
_CONFIRMING = 1.5
"""Time of a round that measures a combination, relative to that of the original alone."""

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


class Trial(msgspec.Struct, frozen=True):
    """A change alone, measured against the original."""

    candidate: Candidate
    gain: Gain
    outcome: Outcome


class Combined(msgspec.Struct, frozen=True):
    """Settings that helped together, measured against the original."""

    settings: Settings
    gain: Gain


class Untried(msgspec.Struct, frozen=True):
    """A change that was not measured, with the reason."""

    candidate: Candidate
    reason: str


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a search, within its budget."""

    control_percent: float
    """By how much two processes of the original differ: root mean square over rounds."""
    trials: list[Trial]
    untried: list[Untried]
    combined: Combined | None
    """The best settings that keep the precision of numbers; None if nothing helped."""
    reduced: Combined | None
    """The best settings with reduced precision; None if that did not help in addition."""
    is_complete: bool
    """False if the budget, or an interruption, ended the search."""
    is_interrupted: bool = False
    """True if KeyboardInterrupt ended the search, after it had measured something."""


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

    KeyboardInterrupt ends the search with what it has; it is raised if that is nothing. Raises OriginalError if the
    original cannot run, or if the budget ends before it has run once.
    """
    running = _Search(start, limits, now_s, on_event, rng)
    try:
        return running.result_of(list(candidates))
    finally:
        running.close_all()


class _Step(NamedTuple):
    """Settings that were measured against the best ones so far."""

    best: Entry | None
    """Those that helped most; None if none did."""
    entries: list[Entry]
    """All that were measured; empty if there was no time, or nothing to measure."""

    def saving(self, percent: float) -> list[Settings]:
        """Return the settings that saved more than this, whether or not it was clear."""
        return [each.candidate.settings for each in self.entries if _saves(each.gain) > percent]


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
        self._measuring: list[Entry] = []
        """Changes that are measured alone at the moment."""
        self._trials: list[Trial] = []
        self._untried: list[Untried] = []
        self._is_complete = True
        self._original_s = 0.0
        """Time of a sample of the original."""
        self._start_s = 0.0
        """Time from the start of two processes of the original until both were warm."""

    def close_all(self) -> None:
        """End all processes that are left."""
        for contender in self._open:
            contender.close()
        self._open.clear()

    def result_of(self, candidates: list[Candidate]) -> SearchResult:
        """Run the search, or the part of it before an interruption."""
        try:
            combined, reduced = self._searched(candidates)
        except KeyboardInterrupt:
            for entry in self._measuring:
                self._note(entry)
            if not self._trials:
                raise
            self._is_complete = False
            return self._found(None, None, is_interrupted=True)
        return self._found(combined, reduced)

    def _found(
        self, combined: Combined | None, reduced: Combined | None, *, is_interrupted: bool = False
    ) -> SearchResult:
        return SearchResult(
            control_percent=100 * self._rounds.spread,
            trials=self._trials,
            untried=self._untried,
            combined=combined,
            reduced=reduced,
            is_complete=self._is_complete and not self._rounds.is_cut_short,
            is_interrupted=is_interrupted,
        )

    def _searched(self, candidates: list[Candidate]) -> tuple[Combined | None, Combined | None]:
        """Run the three parts of the search; return the best settings, and the best ones with reduced precision."""
        original, singles = self._singles(candidates)
        hopeful = [each.candidate for each in self._trials if each.gain.high_percent > _HOPELESS_PERCENT]
        single = self._best(singles, True)
        lower = self._best(singles, False)
        unchanged = Entry(Candidate({}), original)
        top = self._climbed(single or unchanged, [each for each in hopeful if each.keeps_numbers])
        best = None if top is unchanged else top
        if best is not None:
            base = best.candidate.settings
            lower = self._step(
                best, [Candidate({**base, **each.settings}, False) for each in hopeful if not each.keeps_numbers]
            ).best
        gains = self._confirmed(original, [each for each in (single, best, lower) if each is not None])
        return gains.get(id(best)) or gains.get(id(single)), gains.get(id(lower))

    # Each change alone.

    def _singles(self, candidates: list[Candidate]) -> tuple[Contender, list[Entry]]:
        """Measure each change alone, in waves of processes that exist at once; return the original and the changes."""
        until_s = self._began_s + _FIRST_WAVE_SHARE * self._limits.budget_s
        original, control = self._launched([{}, {}])
        if not self._are_warm([original, control]):
            raise OriginalError("the budget ended before the run itself was measured: give a longer --budget")
        self._start_s = self._now_s() - self._launched_s
        measured: list[Entry] = []
        while candidates:
            wave, candidates = self._next_wave(candidates, until_s)
            if not wave:
                self._leave_out(candidates)
                break
            entries = self._entries(wave)
            self._warm_up(entries, until_s)
            self._measuring = entries
            enough_s = self._began_s + _SINGLES_SHARE * self._limits.budget_s
            if measured:
                self._rounds.compare(original, entries, until_s)
            else:
                self._rounds.spread = self._rounds.compare(
                    original, entries, until_s, control=control, enough_s=enough_s
                )
            self._measuring = []
            for entry in entries:
                self._note(entry)
            measured += entries
            until_s = enough_s
            leaders = [self._best(measured, keeps_numbers) for keeps_numbers in (True, False)]
            self._close_but(original, *(leader.contender for leader in leaders if leader is not None))
        self._original_s = self._rounds.sample_s
        return original, measured

    def _next_wave(self, candidates: list[Candidate], until_s: float) -> tuple[list[Candidate], list[Candidate]]:
        """Return the changes whose processes to start next, and the others.

        Starting them may take half of the time that is left for changes alone.
        """
        left_s = until_s - self._now_s() - MIN_PAIRS * self._rounds.sample_s
        batches = int(left_s / 2 / self._start_s) if self._start_s > 0 else len(candidates)
        size = min(self._limits.residents, batches * self._limits.parallel_starts)
        if size < 1 and self._start_s < left_s:
            size = 1
        return candidates[:size], candidates[size:]

    def _note(self, entry: Entry) -> None:
        """Remember the outcome of a change alone, or why it has none."""
        gain, outcome = entry.gain, entry.outcome
        if gain is None or outcome is None:
            self._untried.append(Untried(entry.candidate, entry.failure or "the budget ended"))
            self._is_complete &= entry.failure is not None
            return
        self._trials.append(Trial(entry.candidate, gain, outcome))
        self._on_event(
            "tried",
            {
                "settings": entry.candidate.settings,
                "saves_percent": round(gain.saves_percent, 2),
                "noise_percent": round(gain.noise_percent, 2),
                "outcome": outcome,
            },
        )

    def _leave_out(self, candidates: Sequence[Candidate]) -> None:
        self._untried += [Untried(candidate, "the budget ended") for candidate in candidates]
        self._is_complete = False

    # Combinations.

    def _climbed(self, top: Entry, candidates: list[Candidate]) -> Entry:
        """Return the best settings that steps from `top` reach.

        A step measures each change on top of the best settings so far, and all of them together, since each may gain
        too little to be seen, or help only beside another. It adopts what helps most. After all together, the next step
        also measures each of them left out. Changes that cost time in a step are tried again only when no other helps.
        """
        promising = candidates
        gaining = [each.candidate for each in self._trials if each.gain.saves_percent > MIN_GAIN_PERCENT]
        measured: list[Settings] = [{}, *(each.candidate.settings for each in self._trials)]
        are_together = False
        while True:
            base = top.candidate.settings
            left = [each for each in candidates if _adds(each, top)]
            adding = [each for each in left if each in promising and {**base, **each.settings} not in measured]
            adding = adding or [each for each in left if {**base, **each.settings} not in measured]
            tried = [{**base, **each.settings} for each in adding]
            everything = {**base, **_together([each for each in left if each in gaining])}
            if everything not in [*measured, *tried]:
                tried.insert(0, everything)
            if are_together:
                tried += [rest for each in candidates if (rest := _without(each, base)) and rest not in measured]
            step = self._step(top, [Candidate(each, keeps_numbers=True) for each in tried])
            measured += [each.candidate.settings for each in step.entries]
            if step.best is not None:
                top, are_together = step.best, step.best.candidate.settings == everything
                gaining = [each for each in adding if {**base, **each.settings} in step.saving(MIN_GAIN_PERCENT)]
                promising = [each for each in adding if {**base, **each.settings} in step.saving(0)]
            elif not step.entries:
                return top

    def _step(self, top: Entry, candidates: list[Candidate]) -> _Step:
        """Measure settings against the best ones so far, as many as there is time for."""
        until_s = self._ends_s - self._confirm_s()
        wave, left_out = self._next_wave(candidates, until_s)
        if not wave:
            self._is_complete &= not left_out
            return _Step(None, [])
        # Faster settings have noise of their own: the control of the original says nothing about it.
        control, *entries = self._entries([top.candidate, *wave], top)
        self._warm_up([control, *entries], until_s)
        self._rounds.compare(top.contender, entries, until_s, control=None if control.failure else control.contender)
        self._close(control.contender)
        best = self._best(entries, True) or self._best(entries, False)
        for entry in entries:
            if entry is best:
                self._on_event("combined", {"settings": entry.candidate.settings})
            else:
                self._close(entry.contender)
        return _Step(best, entries)

    def _confirmed(self, original: Contender, found: list[Entry]) -> dict[int, Combined]:
        """Measure settings against the original; return the results by id of the entry, of those that still help.

        A change alone was measured so already. Others are measured again even if the steps added up, in fresh processes
        of both sides if there is time. Without time for any of it, the gains of the steps are multiplied.
        """
        alone = [(each, trial) for each in found for trial in self._trials if trial.candidate == each.candidate]
        confirmed = {id(each): Combined(trial.candidate.settings, trial.gain) for each, trial in alone}
        left = [each for each in found if id(each) not in confirmed]
        for before, entry in zip(left, self._measured_again(original, left), strict=True):
            gain = entry.gain or before.gain_by_steps
            if gain is not None and gain.low_percent > 0:
                confirmed[id(before)] = Combined(before.candidate.settings, gain)
        return confirmed

    def _measured_again(self, original: Contender, found: list[Entry]) -> list[Entry]:
        """Compare settings with the original, in fresh processes if there is time."""
        entries = [Entry(each.candidate, each.contender) for each in found]
        if found and self._now_s() + self._start_s + self._confirm_s() <= self._ends_s:
            original, *fresh = self._launched([{}, *(each.candidate.settings for each in found)])
            if not self._are_warm([original]):
                return entries
            entries = [Entry(each.candidate, contender) for each, contender in zip(found, fresh, strict=True)]
            self._warm_up(entries, self._ends_s)
        self._rounds.compare(original, entries, self._ends_s)
        return entries

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
        except RoseinferError as error:
            raise OriginalError(str(error)) from error
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

    def _confirm_s(self) -> float:
        """Return the time to keep for measuring the combination against the original."""
        return _CONFIRMING * MIN_PAIRS * self._original_s

    def _best(self, entries: Sequence[Entry], keeps_numbers: bool) -> Entry | None:
        """Return the entry that saves most, of those that helped."""
        helped = [
            entry for entry in entries if entry.candidate.keeps_numbers == keeps_numbers and entry.outcome == "helped"
        ]
        return max(helped, key=lambda entry: _saves(entry.gain), default=None)

    def _close(self, contender: Contender) -> None:
        contender.close()
        self._open.remove(contender)

    def _close_but(self, *kept: Contender) -> None:
        for contender in [each for each in self._open if all(each is not one for one in kept)]:
            self._close(contender)


def _saves(gain: Gain | None) -> float:
    return gain.saves_percent if gain is not None else 0.0


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


def _adds(candidate: Candidate, top: Entry) -> bool:
    """Return whether a candidate changes a setting that an entry leaves alone.

    Another value of a setting that the entry has is none: the values were measured against each other before.
    """
    return not set(candidate.settings) <= set(top.candidate.settings)
