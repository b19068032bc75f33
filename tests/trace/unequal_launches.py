"""Traces of an engine that launches each step while the one before runs, with launches of different lengths."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from traces import event, kernel, launch, write


class Launch(NamedTuple):
    """A decode launch; its time on the GPU is `us`."""

    batch: int
    tokens: int
    us: float


LONG, SHORT = Launch(4, 64, 16_000), Launch(4, 4, 1_000)
"""Launches of sixteen decode steps, and of a single one."""


def recording(path: Path, launches: list[Launch], *, factor: float = 1.0) -> Path:
    """Write a trace of decode launches that take `factor` times their time; return its path.

    The span of each step launches its GPU work, and then waits for that of the step before.
    """
    made: list[dict[str, Any]] = []
    at = done = 0.0
    for index, one in enumerate(launches):
        end = max(at + 20, done) + 10
        made.append(
            event("user_annotation", f"roseinfer.step[decode bs={one.batch} tokens={one.tokens}]", at, end - at)
        )
        made.append(launch(at + 5, 2, index + 1))
        start = max(done, at + 10)
        done = start + factor * one.us
        made.append(kernel(start, done - start, index + 1, "decode"))
        at = end + 5
    return write(path, made)


def write_manifest(
    folder: Path,
    launches: list[Launch],
    *,
    floor: float,
    unprofiled: list[Launch] | None = None,
    median_ms: float | None = None,
) -> None:
    """Write the manifest of launches whose floor is a share of their time.

    `unprofiled` are the launches of the unprofiled pass, by default the same. With `median_ms`, the manifest is an
    older one that has only the median of all unprofiled times of the phase.
    """
    steps = [
        {"index": index, "phase": "decode", "batch": one.batch, "tokens": one.tokens, "bytes": 1e5 * one.us * floor}
        for index, one in enumerate(launches)
    ]
    alike = [
        {
            "phase": "decode",
            "batch": one.batch,
            "tokens": one.tokens,
            "steps": 7,
            "wall_ms": one.us / 1000,
            "bytes": 1e5 * one.us * floor,
            "flops": 1,
        }
        for one in dict.fromkeys(unprofiled or launches)
    ]
    manifest = {
        "schema_version": 1,
        "ceilings": {"copy_bytes_per_s": 1e11, "flops_per_s": 1e12},
        "baseline_step_ms": {"decode": median_ms or 1.0},
        "steps": steps,
        **({"baseline_steps": alike} if median_ms is None else {}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
