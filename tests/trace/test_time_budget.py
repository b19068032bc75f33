"""The time budget agrees with one computed microsecond by microsecond, adds up, and ignores what must not matter."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from slow_budget import RandomTrace, SlowBudget
from sums import check_sums
from traces import write

from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.budget_structs import BudgetSummary, TimeBudget


def budget_of(path: Path, events: list[dict[str, Any]]) -> BudgetSummary:
    summary = summarize_trace(write(path / "trace.json", events, "dense"))
    check_sums(summary)
    assert summary.budget is not None
    return summary.budget


def parts_us(budget: TimeBudget) -> Counter[str]:
    """Return the parts in microseconds, without empty ones; check that they add up."""
    fields = msgspec.to_builtins(budget)
    parts = {name.removesuffix("_ms"): fields[name] for name in fields if name.endswith("_ms") and name != "wall_ms"}
    parts |= parts.pop("host")
    assert sum(parts.values()) == pytest.approx(fields["wall_ms"], abs=1e-5)
    return Counter({name: round(1000 * ms) for name, ms in parts.items() if round(1000 * ms)})


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("gpu", [True, False])
def test_the_budget_equals_one_of_every_microsecond(tmp_path: Path, seed: int, gpu: bool) -> None:
    events = RandomTrace(random.Random(seed).randrange, gpu=gpu).events
    slow, found = SlowBudget(events), budget_of(tmp_path, events)
    devices = slow.devices if gpu else [None]
    for device, row in zip(devices, found.devices, strict=True):
        assert parts_us(row) == slow.parts(slow.recording, device)
    steps = [(index, device) for index in range(len(slow.steps)) for device in devices]
    for (index, device), row in zip(steps, found.steps, strict=True):
        assert (row.step, row.device) == (index, device or 0)
        assert parts_us(row) == slow.parts(slow.step_ticks(index), device)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("gpu", [True, False])
def test_devices_steps_phases_and_places_add_up(tmp_path: Path, seed: int, gpu: bool) -> None:
    found = budget_of(tmp_path, RandomTrace(random.Random(seed).randrange, gpu=gpu).events)
    assert parts_us(found.total) == sum((parts_us(row) for row in found.devices), Counter())
    for phase, row in found.phases.items():
        assert parts_us(row) == sum((parts_us(step) for step in found.steps if step.phase == phase), Counter())
    total = parts_us(found.total)
    places: Counter[str] = Counter()
    for place in found.idle:
        places[place.cause] += round(1000 * place.ms)
        assert 0 <= place.short_ms <= place.ms
        assert 0 < place.longest_ms <= place.ms
    busy = ("compute", "exposed_communication", "exposed_copy")
    assert places == Counter({part: us for part, us in total.items() if part not in busy})
    if gpu:
        exposed = Counter({"exposed_communication": 0, "exposed_copy": 0})
        for work in found.exposed:
            exposed[f"exposed_{work.kind}"] += round(1000 * work.exposed_ms)
            assert work.exposed_ms <= work.total_ms
        assert +exposed == Counter({part: total[part] for part in exposed if total[part]})


@pytest.mark.parametrize("seed", range(40))
def test_time_zero_kernel_names_and_order_in_the_file_do_not_matter(tmp_path: Path, seed: int) -> None:
    events = RandomTrace(random.Random(seed).randrange, gpu=True).events
    expected = budget_of(tmp_path, events)
    names = {"gemm": "other_kernel"}
    changed = [
        event | {"ts": event["ts"] + 7_000_000, "name": names.get(event["name"], event["name"])} for event in events
    ]
    random.Random(seed).shuffle(changed)
    found = budget_of(tmp_path, changed)
    assert (found.total, found.phases, found.devices, found.steps) == (
        expected.total,
        expected.phases,
        expected.devices,
        expected.steps,
    )
