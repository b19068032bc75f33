"""Result of a search for the settings that help."""

import msgspec

from roseinfer.advice.levers import Settings
from roseinfer.advice.paired_gains import Gain, Outcome
from roseinfer.advice.trial_rounds import Candidate


class Trial(msgspec.Struct, frozen=True):
    """A change alone, measured against the original."""

    candidate: Candidate
    gain: Gain
    outcome: Outcome


class Combined(msgspec.Struct, frozen=True):
    """Settings that helped together, measured against the original."""

    settings: Settings
    gain: Gain
    is_chained: bool
    """True if the gain multiplies those of the search's steps, since it was not measured clearly as a whole."""


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
    """The best settings with reduced precision; None if nothing helped, or if `combined` saves as much."""
    is_complete: bool
    """False if the budget, or an interruption, ended the search."""
    is_interrupted: bool = False
    """True if KeyboardInterrupt ended the search, after it had measured something."""
    failure: str | None = None
    """Why the search ended early: an engine that others were compared with failed. None if that did not happen."""
