"""Rounds of a comparison: when they end, and what steps on top of each other save."""

import math
import random
from collections.abc import Sequence

import pytest
from scripted_contenders import ScriptedMachine, factors

from roseinfer.advice.trial_rounds import Candidate, Entry, Rounds


def entry(costs: Sequence[float], reference: Sequence[float], beside: Entry | None = None) -> Entry:
    """Return an entry that was measured with these costs."""
    made = Entry(Candidate({"overlap": True}), ScriptedMachine(factors({})).start([{}])[0], beside)
    made.costs, made.reference = list(costs), list(reference)
    return made


def compared(machine: ScriptedMachine, key: str, until_s: float, enough_s: float = math.inf) -> Entry:
    """Compare a change with the original, from a time of 0, and return its entry."""
    machine.time_s = 0.0
    original, control, changed = machine.start([{}, {}, {key: True}])
    rounds = Rounds(now_s=machine.now_s, rng=random.Random(1), on_event=lambda *_: None, max_pairs=8)
    made = Entry(Candidate({key: True}), changed)
    rounds.compare(original, [made], until_s, control=control, enough_s=enough_s)
    return made


def test_steps_multiply_what_they_save() -> None:
    first = entry([5, 5.1, 4.9], [10, 10, 10])
    second = entry([2.5, 2.4, 2.6], [5, 5, 5], first)
    third = entry([2.5, 2.5], [2.5, 2.5], second)
    assert first.gain_over_original == first.gain
    assert second.gain is not None
    assert second.gain_over_original is not None
    assert second.gain.speedup == pytest.approx(2, rel=0.01)
    assert second.gain_over_original.speedup == pytest.approx(4, rel=0.01)
    assert third.gain_over_original is None, "two rounds say nothing"
    assert [each.is_chained for each in (first, second)] == [False, True]
    second.confirmed = first.gain
    assert second.gain_over_original == first.gain
    assert not second.is_chained, "it was measured against the original itself"


def test_a_step_on_a_reference_without_rounds_of_its_own_counts_alone() -> None:
    step = entry([5, 5, 5], [10, 10, 10], entry([], []))
    assert step.gain_over_original == step.gain


@pytest.mark.parametrize(("until_s", "pairs"), [(2.9, 0), (3.1, 1), (8.9, 2), (9.1, 3)])
def test_rounds_that_would_end_too_late_do_not_count(until_s: float, pairs: int) -> None:
    machine = ScriptedMachine(factors({}), noise=1e-4)  # three passes of 1 s each
    machine.ends_s = until_s
    found = compared(machine, "overlap", until_s)
    assert len(found.costs) == pairs


def test_enough_time_ends_the_rounds_only_once_something_has_helped() -> None:
    wide = {"noise": lambda settings: 0.3 if settings else 0.0}
    undecided = compared(ScriptedMachine(factors({"overlap": 0.9}), seed=5, **wide), "overlap", 1e9, enough_s=0)
    assert len(undecided.costs) >= 8
    clear = compared(ScriptedMachine(factors({"overlap": 0.2}), noise=0.01), "overlap", 1e9, enough_s=0)
    assert len(clear.costs) == 3
    assert clear.outcome == "helped"
