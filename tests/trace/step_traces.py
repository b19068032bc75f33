"""Traces of consecutive steps with given durations."""

from typing import Any

from traces import event, kernel, launch


def steps(
    durations: list[float], *, phase: str = "decode", kernel_us: float = 10.0, rank: int = 0, events: int = 2
) -> list[dict[str, Any]]:
    """Return consecutive steps with the given durations in us, each with an inner span and some kernels."""
    made: list[dict[str, Any]] = []
    at, correlation = 0.0, 1
    for duration in durations:
        made.append(event("user_annotation", f"roseinfer.step[{phase} bs=4 tokens=4]", at, duration))
        made.append(event("user_annotation", "roseinfer.model.forward", at + 1, duration - 2))
        for index in range(events):
            made.append(launch(at + 2 + 3 * index, 2, correlation))
            made.append(kernel(at + 20 + 2 * kernel_us * index, kernel_us, correlation, "gemm", device=rank))
            correlation += 1
        at += duration + 5
    return made
