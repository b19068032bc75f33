"""Traces with and without all of their records, and what a summary says of their completeness."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.completeness_structs import Completeness, MissingRecords

Events = list[dict[str, Any]]
GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def completeness_of(tmp_path: Path, events: Events) -> Completeness:
    return summary_of(tmp_path, events).completeness


def summary_of(tmp_path: Path, events: Events) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events))


def the_only(found: Completeness) -> MissingRecords:
    assert len(found.missing) == 1, found.missing
    return found.missing[0]


def eager(count: int = 100, each_us: float = 70) -> Events:
    """Return operators that launch one kernel each, 100 us apart."""
    return [
        one
        for index in range(count)
        for one in (
            event("cpu_op", "aten::mm", 100 * index, 50),
            launch(100 * index + 10, 5, index + 1),
            kernel(100 * index + 20, each_us, index + 1),
        )
    ]


def without_kernels(events: Events, drop: Callable[[int], bool]) -> Events:
    """Return the events without the GPU events whose place in order, from 0, is to be dropped."""
    seen = -1
    kept: Events = []
    for one in events:
        if one["cat"] in GPU:
            seen += 1
            if drop(seen):
                continue
        kept.append(one)
    return kept


def replays(sizes: list[int], layers: int = 12, kinds: int = 5, labelled: bool = False) -> Events:
    """Return decode steps that replay one graph each: `sizes` extra kernels per layer, then some single ones."""
    made: Events = []
    for step, extra in enumerate(sizes):
        at = 10_000 * step
        if labelled:
            made.append(event("user_annotation", f"step[DECODE bs={8 * (extra + 1)}]", at, 9_000))
        made.append(launch(at + 10, 30, step + 1, "cudaGraphLaunch"))
        names = ["embed"]
        names += [f"k{kind}" for _ in range(layers) for kind in range(kinds)]
        names += [f"splitk{one}" for _ in range(layers) for one in range(extra)]
        names += ["head", "argmax"]
        made += [kernel(at + 50 + 10 * place, 9.5, step + 1, name) for place, name in enumerate(names)]
    return made
