"""Events of traces whose verdict is known."""

from pathlib import Path
from typing import Any

from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace

STEPS = 6
STEP_US = 1000


def graphed_steps(
    doing: str = "python", *, replays: int = 1, events: int = 60, eager: int = 0, phase: str = "decode"
) -> list[dict[str, Any]]:
    """Return decode steps with `replays` graph launches of `events` kernels each, after 600 us of host work.

    `eager` more kernels are launched one by one. `doing` is the host's activity during the 600 us.
    """
    made: list[dict[str, Any]] = []
    correlation = 1
    for step in range(STEPS):
        at = step * STEP_US
        made.append(event("user_annotation", f"roseinfer.step[{phase} bs=4 tokens=4]", at, STEP_US - 10))
        made.append(event("user_annotation", "roseinfer.schedule", at + 5, 600))
        if doing == "sync":
            made.append(event("cuda_runtime", "cudaStreamSynchronize", at + 10, 590))
        elif doing != "python":
            made.append(event("cpu_op", doing, at + 10, 590))
        made.append(event("user_annotation", "roseinfer.model.forward", at + 610, 300))
        for index in range(replays + eager):
            is_graph = index < replays
            begin = at + 612 + 250 * index / (replays + eager)
            made.append(launch(begin, 2, correlation, "cudaGraphLaunch" if is_graph else "cudaLaunchKernel"))
            width = 240 / (replays + eager) / (events if is_graph else 1)
            made += [
                kernel(begin + 3 + width * one, 0.8 * width, correlation, f"k{one}")
                for one in range(events if is_graph else 1)
            ]
            correlation += 1
    return made


def summary_of(tmp_path: Path, events: list[dict[str, Any]]) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events))


def rows(*events: tuple[str, str, float, float]) -> list[dict[str, Any]]:
    return [event(cat, name, at, duration) for cat, name, at, duration in events]
