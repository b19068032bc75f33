"""Where a host runs ahead of the GPU, the budget of a step is that of its own GPU work."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ahead_traces import Events, Step, random_steps_ahead, steps_ahead
from slow_budget import SlowBudget
from step_traces import steps
from sums import check_sums
from test_time_budget import parts_us
from traces import write

from roseinfer.trace import compare, summarize_trace
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.trace_summary import Summary

SERVED = [
    Step("prefill", host=20, gpu=3000),
    Step("mixed", host=20, gpu=2000),
    Step("decode", host=3000, gpu=400),
    Step("decode", host=1900, gpu=500),
]
"""A prefill of 3 ms, a mixed step of 2 ms, and decode steps whose spans wait for these two."""
VLLM = {"prefill": "execute_context_1(64)_generation_0(0)", "decode": "execute_context_0(0)_generation_4(4)"}


def summary_of(folder: Path, events: Events, name: str = "trace.json") -> Summary:
    summary = summarize_trace(write(folder / name, events, "dense"))
    check_sums(summary)
    return summary


def budget_of(folder: Path, events: Events, name: str = "trace.json") -> BudgetSummary:
    budget = summary_of(folder, events, name).budget
    assert budget is not None
    return budget


def in_one_phase(events: Events) -> Events:
    """Return the events with all steps in one phase."""
    names = {f"step[{phase} ": "step[decode " for phase in ("prefill", "mixed")}
    made: Events = []
    for one in events:
        name = one["name"]
        for old, new in names.items():
            name = name.replace(old, new)
        made.append(one | {"name": name})
    return made


def starts_apart(events: Events) -> list[float]:
    """Return the times in ms from the start of each step to that of the next, or to the end of all events."""
    spans = sorted((one["ts"], one["ts"] + one["dur"]) for one in events if one["cat"] == "user_annotation")
    starts = [start for start, _ in spans if not any(low < start < high for low, high in spans)]
    ends = [*starts[1:], max(one["ts"] + one["dur"] for one in events)]
    return [round((end - start) / 1000, 6) for start, end in zip(starts, ends, strict=True)]


def walls(budget: BudgetSummary) -> list[float]:
    return [row.wall_ms for row in budget.steps]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("phases", [("decode",), ("decode", "prefill", "mixed")])
def test_the_budget_of_steps_ahead_equals_one_of_every_microsecond(
    tmp_path: Path, seed: int, phases: tuple[str, ...]
) -> None:
    events = random_steps_ahead(random.Random(seed).randrange, phases)
    slow, found = SlowBudget(events), budget_of(tmp_path, events)
    for device, row in zip(slow.devices, found.devices, strict=True):
        assert parts_us(row) == slow.parts(slow.recording, device)
    expected = [(index, device) for index in range(len(slow.steps)) for device in slow.devices]
    for (index, device), step in zip(expected, found.steps, strict=True):
        assert parts_us(step) == slow.parts(slow.step_ticks(index), device)


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_of_the_recording_is_that_of_any_phases(tmp_path: Path, seed: int) -> None:
    events = random_steps_ahead(random.Random(seed).randrange, ("decode", "prefill", "mixed"))
    found, alike = budget_of(tmp_path, events), budget_of(tmp_path, in_one_phase(events), "alike.json")
    assert (found.total, found.devices, found.exposed) == (alike.total, alike.devices, alike.exposed)
    assert [place.ms for place in found.idle] == [place.ms for place in alike.idle]
    assert sum(walls(found)) == pytest.approx(sum(walls(alike)))


def test_every_phase_has_the_time_of_its_own_work(tmp_path: Path) -> None:
    found = summary_of(tmp_path, steps_ahead(SERVED))
    assert found.budget is not None
    assert walls(found.budget) == [3.01, 2.0, 0.4, 0.5]
    assert found.budget.steps_have_own_work
    for phase, row in found.budget.phases.items():
        figures = found.steps.phases[phase]
        assert row.compute_ms == pytest.approx(figures.count * figures.gpu_ms_per_step)
    assert found.budget.phases["prefill"].compute_ms == 3.0


def test_idle_time_counts_for_the_step_that_is_launched_late(tmp_path: Path) -> None:
    """The host begins the last step at 3055 us, and the GPU ends the one before at 5410 us."""
    late = [*SERVED[:3], SERVED[3]._replace(host=3500, planning=2955)]
    found = budget_of(tmp_path, steps_ahead(late))
    assert walls(found) == [3.01, 2.0, 0.4, pytest.approx(1.145)]
    assert found.steps[3].host_ms.python == pytest.approx(0.6 + 0.04)
    assert sum(row.host_ms.python for row in found.steps[1:3]) == 0


def test_time_before_the_span_of_a_step_counts_for_the_step_before(tmp_path: Path) -> None:
    """The GPU ends the second last step at 5410 us, and the host begins the last one at 5910 us."""
    late = [*SERVED[:3], SERVED[3]._replace(pause=2860)]
    assert walls(budget_of(tmp_path, steps_ahead(late))) == [3.01, 2.0, 0.9, 1.9]


def out_of_order() -> Events:
    """Return steps of which the first has a copy that ends after the kernel of the second."""
    made = steps_ahead(SERVED)
    copied = next(one for one in made if one["cat"] == "kernel") | {"name": "Memcpy DtoH", "cat": "gpu_memcpy"}
    args: dict[str, Any] = copied["args"] | {"stream": 9}
    return [*made, copied | {"args": args, "tid": 9, "ts": 20, "dur": 5100}]


def not_ahead() -> Events:
    """Return steps of two phases whose GPU events end before their spans."""
    made = steps([300, 200, 250])
    later = [one | {"ts": one["ts"] + 1000} for one in steps([800, 700], phase="prefill", kernel_us=50)]
    for one in later:
        if "correlation" in one.get("args", {}):
            one["args"] = one["args"] | {"correlation": 100 + one["args"]["correlation"]}
    return [*made, *later]


def of_vllm() -> Events:
    made = steps_ahead([one for one in SERVED if one.phase in VLLM], engine="{phase}")
    return [one | {"name": VLLM.get(one["name"], one["name"])} for one in made]


@pytest.mark.parametrize("events", [out_of_order(), not_ahead(), of_vllm(), in_one_phase(steps_ahead(SERVED))])
def test_all_other_steps_last_until_the_next_one_begins(tmp_path: Path, events: Events) -> None:
    budget = budget_of(tmp_path, events)
    assert walls(budget) == starts_apart(events)
    assert budget.steps_have_own_work == (events == not_ahead())


def test_steps_of_several_ranks_have_their_own_work(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    alone = [budget_of(tmp_path, steps_ahead(slower(SERVED, rank), device=rank)) for rank in range(2)]
    for rank in range(2):
        made = steps_ahead(slower(SERVED, rank), device=rank)
        write(folder / f"rank{rank}.json", made)
    found = summarize_trace(folder)
    check_sums(found)
    assert found.budget is not None
    for rank in range(2):
        assert [row.wall_ms for row in found.budget.steps if row.rank == rank] == walls(alone[rank])


def slower(served: Sequence[Step], rank: int) -> list[Step]:
    return [one._replace(gpu=one.gpu + 100 * rank) for one in served]


def test_a_phase_that_is_slower_shows_in_its_own_budget_alone(tmp_path: Path) -> None:
    old = summary_of(tmp_path, steps_ahead(SERVED), "old.json")
    slow = [one._replace(gpu=one.gpu * (1.5 if one.phase == "prefill" else 1)) for one in SERVED]
    found = compare(summary_of(tmp_path, steps_ahead(slow), "new.json"), old).comparison
    assert found is not None
    changes = {one.phase: round(one.new.compute_ms - one.baseline.compute_ms, 6) for one in found.budgets}
    assert changes == {"prefill": 1.5, "mixed": 0.0, "decode": 0.0}


LONG, SHORT = (Step("decode", host=20, gpu=100 * tokens, tokens=tokens) for tokens in (16, 1))


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_budgets_of_other_mixes_of_steps_compare_steps_of_the_same_work(tmp_path: Path, factor: float) -> None:
    """Both recordings have decode steps of 1,600 and of 100 us, in unequal numbers."""
    old = summary_of(tmp_path, steps_ahead([SERVED[0], LONG, LONG, SHORT]), "old.json")
    mixed = [SERVED[0], *(one._replace(gpu=one.gpu * factor) for one in (SHORT, LONG, SHORT, SHORT, SHORT))]
    found = compare(summary_of(tmp_path, steps_ahead(mixed), "new.json"), old).comparison
    assert found is not None
    budgets = {one.phase: (one.baseline, one.new) for one in found.budgets}
    before, after = budgets["decode"]
    assert after.compute_ms == pytest.approx(factor * before.compute_ms)
    assert (before.wall_ms, after.wall_ms) == (before.compute_ms, after.compute_ms)


def test_budgets_of_other_mixes_are_not_compared_if_steps_have_the_work_of_others(tmp_path: Path) -> None:
    old, new = ([LONG, LONG, SHORT], [SHORT, LONG, SHORT, SHORT])
    baseline = summary_of(tmp_path, steps_ahead(old), "old.json")
    found = compare(summary_of(tmp_path, steps_ahead(new), "new.json"), baseline).comparison
    assert found is not None
    assert found.budgets == []
