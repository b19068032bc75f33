"""Time budgets made by hand, for tests of renderings."""

from typing import Any

from roseinfer.trace.summary.budget_structs import BudgetSummary, DeviceBudget, HostTime, PhaseBudget, TimeBudget

HOST_BOUND = (12.5, 3.1, 0.4, 0.7, 0.3, 0.1, 28.2, 30.1, 52.2, 9.7, 0.2)
"""Milliseconds per part, in the order of the fields of `TimeBudget`."""
COMPUTE_BOUND = (12.0, 1.0, 0, 0, 0, 0, 1.0, 0.5, 1.0, 0.1, 0)


def parts(values: tuple[float, ...]) -> dict[str, Any]:
    """Return the fields of a budget."""
    compute, communication, copy, *host, queue, not_recorded = values
    names = ("data_loading", "synchronizing_calls", "allocation", "launch_calls", "operators", "python")
    return {
        "wall_ms": sum(values),
        "compute_ms": compute,
        "exposed_communication_ms": communication,
        "exposed_copy_ms": copy,
        "host_ms": HostTime(**dict(zip(names, host, strict=True))),
        "queue_ms": queue,
        "not_recorded_ms": not_recorded,
    }


def budget(num_devices: int = 1, phases: tuple[str, ...] = ("decode", "prefill")) -> BudgetSummary:
    """Return a budget in which the first phase is bound by the host and the others are bound by compute."""
    total = tuple(num_devices * value for value in HOST_BOUND)
    return BudgetSummary(
        total=TimeBudget(**parts(total)),
        phases={
            name: PhaseBudget(steps=2, **parts(COMPUTE_BOUND if index else HOST_BOUND))
            for index, name in enumerate(phases)
        },
        devices=[DeviceBudget(id=one, rank=0, **parts(HOST_BOUND)) for one in range(num_devices)],
        steps=[],
        idle=[],
    )
