"""The search on machines where anything goes wrong: failures, interruptions and any budget, with scripted engines."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from scripted_contenders import ScriptedContender, ScriptedMachine, factors

from roseinfer.advice.levers import Settings
from roseinfer.advice.paired_gains import MIN_PAIRS
from roseinfer.advice.trial_result import SearchResult
from roseinfer.advice.trial_search import OTHER_CONTENDERS, Candidate, OriginalError

NESTED: list[Settings] = [
    {"attention": "paged"},
    {"cuda_graphs": True, "attention": "paged"},
    {"max_decode_steps": 4, "cuda_graphs": True, "attention": "paged"},
    {"max_decode_steps": 16, "cuda_graphs": True, "attention": "paged"},
    {"compile": True, "attention": "paged"},
    {"overlap": True},
    {"max_batch_size": 4},
    {"max_batch_size": 8},
]
REDUCED: list[Settings] = [
    {"dtype": "bfloat16"},
    {"quantize": "int8", "compile": True, "attention": "paged"},
    {"quantize": "int4", "compile": True, "attention": "paged"},
]


class Trouble:
    """A machine with random effects, noise and failures. It counts the samples of each setting."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        effects = {
            (key, value): rng.choice([0.5, 0.8, 0.95, 1, 1, 1.3]) for each in NESTED for key, value in each.items()
        }
        both = {pair: rng.uniform(0.9, 1.1) for pair in itertools.combinations(sorted({key for key, _ in effects}), 2)}
        self.machine = ScriptedMachine(
            lambda settings: (
                rng_base
                * math.prod(effects.get(item, 0.7) for item in settings.items())
                * math.prod(factor for pair, factor in both.items() if set(pair) <= set(settings))
            ),
            seed=seed,
            noise=rng.choice([0, 0.01, 0.2]),
            offset=rng.choice([0, 0.005, 0.05]),
            drift=rng.choice([0, 0.02]),
            spikes=rng.choice([0, 0.05]),
            start_s=rng.choice([0.2, 5]),
        )
        rng_base = rng.choice([0.001, 0.01, 0.05])
        self.residents = rng.choice([1, 2, 6])
        self.budget_s = math.exp(rng.uniform(math.log(2), math.log(2000)))
        self.failing = rng.choice([0, 0, 0.1, 0.4])
        if rng.random() < 0.3:
            self.machine.interrupted_at = rng.randint(0, 200)
        self.most = 0
        self.sampled: Counter[str] = Counter()
        self._launch = self.machine.start
        self.machine.start = self._start  # type: ignore[method-assign]

    def searched(self, changes: Sequence[Candidate]) -> SearchResult:
        return self.machine.search(
            changes, self.budget_s, residents=self.residents, parallel_starts=self.rng.choice([1, 2, 8])
        )

    def _start(self, settings: Sequence[Settings]) -> list[ScriptedContender]:
        started = self._launch(settings)
        for contender, changes in zip(started, settings, strict=True):
            if self.rng.random() < self.failing:
                contender.fails_after = self.rng.randint(0, 15)
            self._count(contender, str(sorted(changes.items())))
        self.most = max(self.most, self.machine.open)
        return started

    def _count(self, contender: ScriptedContender, key: str) -> None:
        sample = contender.sample

        def counted() -> float:
            cost = sample()
            self.sampled[key] += 1
            return cost

        contender.sample = counted  # type: ignore[method-assign]


def test_whatever_happens_the_search_reports_what_it_measured_and_leaves_nothing_running() -> None:
    reports = 0
    for seed in range(400):
        trouble = Trouble(seed)
        rng = random.Random(seed)
        changes = [Candidate(each) for each in rng.sample(NESTED, rng.randint(1, len(NESTED)))]
        changes += [Candidate(each, keeps_numbers=False) for each in rng.sample(REDUCED, rng.randint(0, len(REDUCED)))]
        began_s = trouble.machine.time_s
        found: SearchResult | None = None
        with suppress(OriginalError, KeyboardInterrupt):
            found = trouble.searched(changes)
        assert trouble.machine.open == 0
        assert trouble.most <= trouble.residents + OTHER_CONTENDERS
        assert trouble.machine.time_s <= began_s + trouble.budget_s + 1e-6
        if found is None:
            continue
        reports += 1
        assert len(found.trials) + len(found.untried) == len(changes)
        assert not (found.is_complete and any(each.reason == "the budget ended" for each in found.untried))
        for each in (found.combined, found.reduced):
            if each is not None:
                assert trouble.sampled[str(sorted(each.settings.items()))] >= MIN_PAIRS
                assert 0 < each.gain.low_percent <= each.gain.saves_percent
        assert found.combined is None or not {"dtype", "quantize"} & found.combined.settings.keys()
        if found.is_interrupted and found.combined is None:
            assert not any(each.outcome == "helped" and each.candidate.keeps_numbers for each in found.trials)
    assert reports > 200


def failing(machine: ScriptedMachine, launch_number: int, place: int, after: int) -> None:
    """Let a process fail after some samples: the one at a place among those that are started together."""
    launch, numbers = machine.start, itertools.count()

    def start(settings: Sequence[Settings]) -> list[ScriptedContender]:
        started = launch(settings)
        if next(numbers) == launch_number:
            started[place].fails_after = after
        return started

    machine.start = start  # type: ignore[method-assign]


def test_best_settings_that_fail_later_are_reported_with_the_reason() -> None:
    machine = ScriptedMachine(factors({"compile": 0.5, "overlap": 0.8}), noise=0.005)
    failing(machine, 1, 0, after=5)
    found = machine.search([Candidate({"compile": True}), Candidate({"overlap": True})])
    assert found.failure == "this engine failed"
    assert not found.is_complete
    assert found.combined is not None
    assert found.combined.settings == {"compile": True}
    assert machine.open == 0


def test_an_original_that_fails_before_anything_is_measured_is_named() -> None:
    machine = ScriptedMachine(factors({"compile": 0.5}))
    failing(machine, 0, 0, after=2)
    with pytest.raises(OriginalError, match="this engine failed"):
        machine.search([Candidate({"compile": True})])
    assert machine.open == 0


def test_the_control_is_measured_even_if_the_first_changes_cannot_run() -> None:
    machine = ScriptedMachine(factors({"overlap": 0.5}), noise=0.02, fails=[{"compile": True}])
    found = machine.search([Candidate({"compile": True}), Candidate({"overlap": True})], residents=1)
    assert 0.5 < found.control_percent < 10


def test_an_interruption_in_a_step_keeps_the_best_settings_so_far() -> None:
    gains = {"compile": 0.5, "overlap": 0.7, "threads": 0.8}
    sizes = set()
    for after in range(15, 100):
        machine = ScriptedMachine(factors(gains), noise=0.005)
        machine.interrupted_at = after
        try:
            found = machine.search([Candidate({key: True}) for key in gains])
        except KeyboardInterrupt:
            continue
        if found.combined is None:
            continue
        size = len(found.combined.settings)
        assert found.combined.gain.speedup == pytest.approx(1 / math.prod(list(gains.values())[:size]), rel=0.05)
        if found.is_interrupted:
            sizes.add((size, found.combined.is_chained))
    assert sizes >= {(1, False), (3, True)}
