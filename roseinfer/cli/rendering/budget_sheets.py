"""The time budget of a trace: its parts with their names, as sheets and as shares for a stacked bar."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from roseinfer.cli.rendering.table_sheet import TOTAL, Sheet, milliseconds, sheet
from roseinfer.trace.summary.budget_structs import BudgetSummary, TimeBudget
from roseinfer.trace.summary.device_structs import DeviceSummary

_MAX_WIDTH = 80
_RECORDING = "all"
"""Name of the budget of the whole recording."""


class BudgetPart(NamedTuple):
    """A part of a time budget."""

    key: str
    """Name of the part's field, which is also its CSS class."""
    label: str
    ms: Callable[[TimeBudget], float]


PARTS = (
    BudgetPart("compute", "compute", lambda budget: budget.compute_ms),
    BudgetPart("communication", "exposed communication", lambda budget: budget.exposed_communication_ms),
    BudgetPart("copy", "exposed copies", lambda budget: budget.exposed_copy_ms),
    BudgetPart("data_loading", "host: data loading", lambda budget: budget.host_ms.data_loading),
    BudgetPart("synchronizing_calls", "host: sync calls", lambda budget: budget.host_ms.synchronizing_calls),
    BudgetPart("allocation", "host: allocation", lambda budget: budget.host_ms.allocation),
    BudgetPart("launch_calls", "host: launch calls", lambda budget: budget.host_ms.launch_calls),
    BudgetPart("operators", "host: operators", lambda budget: budget.host_ms.operators),
    BudgetPart("python", "host: Python", lambda budget: budget.host_ms.python),
    BudgetPart("queue", "device queue", lambda budget: budget.queue_ms),
    BudgetPart("not_recorded", "not recorded", lambda budget: budget.not_recorded_ms),
)
"""Parts of a budget in the order of `TimeBudget`. They add up to the wall time."""


class NamedBudget(NamedTuple):
    """A budget to show, with the number of steps that its times are divided by, counted once per device."""

    name: str
    budget: TimeBudget
    steps: int = 1

    @property
    def wall_ms(self) -> float:
        """Wall time per step, or of the whole recording."""
        return self.budget.wall_ms / max(1, self.steps)

    def ms(self, part: BudgetPart) -> float:
        """Time of a part per step, or of the whole recording."""
        return part.ms(self.budget) / max(1, self.steps)

    def percent(self, part: BudgetPart) -> float:
        """Share of a part in the wall time."""
        return 100 * part.ms(self.budget) / self.budget.wall_ms if self.budget.wall_ms > 0 else 0.0


def phase_budgets(budget: BudgetSummary) -> list[NamedBudget]:
    """Return the budget of a step on one device per phase, the phase with the most time first."""
    steps = Counter(step.phase for step in budget.steps)  # a step counts once per device
    phases = sorted(budget.phases.items(), key=lambda item: -item[1].wall_ms)
    return [NamedBudget(name, phase, steps[name] or phase.steps) for name, phase in phases]


def device_budgets(
    budget: BudgetSummary,
    devices: Sequence[DeviceSummary],
    of_one_rank: str = "{id}",
    of_several: str = "{rank}:{id}",
    without_gpu: str = "{rank}",
) -> list[NamedBudget]:
    """Return the budget of each device; an empty list for a single one, whose budget is the total.

    `of_one_rank` and `of_several` are formats for the number of a device, which its name follows; `without_gpu` is the
    format for a rank whose device is the CPU.
    """
    if len(budget.devices) < 2:
        return []
    names = {(device.rank, device.id): device.name for device in devices}
    number = of_several if len({device.rank for device in budget.devices}) > 1 else of_one_rank
    if not devices and all(one.id == 0 for one in budget.devices):
        number = without_gpu
    return [
        NamedBudget(f"{number.format(rank=one.rank, id=one.id)} {names.get((one.rank, one.id), '')}".strip(), one)
        for one in budget.devices
    ]


def shown_parts(budgets: Sequence[NamedBudget]) -> list[BudgetPart]:
    """Return the parts that any of the budgets has."""
    return [part for part in PARTS if any(part.ms(one.budget) for one in budgets)]


def budget_sheets(
    budget: BudgetSummary | None, devices: Sequence[DeviceSummary], ranks: set[int] | None = None
) -> list[Sheet]:
    """Return the budget with a row per part, and, for several devices, with a row per device.

    `ranks` are those whose devices have a row; None for all.
    """
    if budget is None or not budget.total.wall_ms:
        return []
    phases = phase_budgets(budget)
    columns = [*phases, NamedBudget(_RECORDING, budget.total)]
    parts = shown_parts(columns)
    title = "Time budget per step, and of the whole recording" if phases else "Time budget of the recording"
    if len(budget.devices) > 1:
        over = f"all {len(budget.devices)} devices"
        title = f"Time budget per step and device, and of {over}" if phases else f"Time budget of {over}"
    shown = [one for one in budget.devices if ranks is None or one.rank in ranks]
    by_device = device_budgets(msgspec.structs.replace(budget, devices=shown), devices)
    return [
        *(_part_sheet(title, piece, parts, with_bar=piece[0] is columns[0]) for piece in _pieces(columns)),
        *([_device_sheet(by_device, "GPU" if devices else "Rank")] if by_device else []),
    ]


def _pieces(budgets: Sequence[NamedBudget]) -> list[list[NamedBudget]]:
    """Split budgets into groups whose columns fit in 80 columns of text."""
    label = max(len(part.label) for part in PARTS)
    pieces: list[list[NamedBudget]] = [[]]
    width = label
    for one in budgets:
        added = max(len(one.name) + 3, len(milliseconds(one.wall_ms))) + 2 + len("100.0") + 2
        if pieces[-1] and width + added > _MAX_WIDTH:
            pieces.append([])
            width = label
        pieces[-1].append(one)
        width += added
    return pieces


def _part_sheet(title: str, budgets: Sequence[NamedBudget], parts: Sequence[BudgetPart], *, with_bar: bool) -> Sheet:
    """Return a sheet with a row per part and two columns per budget: ms and percent."""
    rows = [
        [
            part.label,
            *(text for one in budgets for text in (milliseconds(one.ms(part)), f"{one.percent(part):.1f}")),
            *([f"{budgets[0].percent(part):.1f}"] * with_bar),
        ]
        for part in parts
    ]
    walls = [text for one in budgets for text in (milliseconds(one.wall_ms), "100.0")]
    rows.append([TOTAL, *walls, *([""] * with_bar)])
    names = ["" if one.name == "step" else one.name for one in budgets]
    columns = [title for name in names for title in (f"{name} ms".strip(), "%")]
    share = "share of" if len(budgets) < 3 else "of"  # beside more columns, a longer title would be cut at 80
    bar = [f"={share} {names[0]}" if names[0] else "=share"] * with_bar
    return sheet(title, ("-Part", *columns, *bar), rows)


def _device_sheet(budgets: Sequence[NamedBudget], what: str) -> Sheet:
    """Return a sheet with a row per device, a GPU or the CPU of a rank, with all causes on the host in one column."""
    groups = {
        "Compute": PARTS[:1],
        "Comm": PARTS[1:2],
        "Copies": PARTS[2:3],
        "Host": [part for part in PARTS if part.label.startswith("host")],
        "Queue": PARTS[-2:-1],
        "Not recorded": PARTS[-1:],
    }
    rows = [
        [
            one.name,
            milliseconds(one.wall_ms),
            *(f"{sum(one.percent(part) for part in parts):.1f}" for parts in groups.values()),
        ]
        for one in budgets
    ]
    return sheet("Time budget of the recording by device, %", (f"*{what}", "Wall ms", *groups), rows)
