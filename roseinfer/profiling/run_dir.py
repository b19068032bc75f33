"""A profile run on disk: where its files lie, and the manifest that says how they were made."""

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.errors import RoseinferError
from roseinfer.profiling.recorder import RecordedCycle
from roseinfer.trace.reading.trace_manifest import Graph
from roseinfer.workload.pass_report import Report
from roseinfer.workload.provenance import ModelInfo, Versions

SCHEMA_VERSION = 1
_COPY_BYTES = 1 << 20


class ProfiledStep(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded step."""

    index: int
    """Counted from the start of the loop, waiting and warm-up included."""
    cycle: int
    phase: str
    batch: int
    tokens: int
    context_tokens: int
    bytes: int
    """That the step must move: weights, keys and values, logits."""
    flops: int


class RunManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """manifest.json. Parts that only an engine has are missing for other loops."""

    schema_version: int
    versions: Versions
    device: str
    rank: int
    world_size: int
    config: dict[str, Any]
    """The tables of the run's configuration."""
    schedule: dict[str, Any]
    cycles: list[RecordedCycle]
    traces: list[str]
    """File names inside the run directory."""
    warnings: list[str]
    model: ModelInfo | None = None
    ceilings: dict[str, float] | None = None
    """Measured on the device: copy_bytes_per_s, flops_per_s."""
    baseline_step_ms: dict[str, float] | None = None
    """Median wall time of a step by phase, measured before the process first touched a profiler; of steps with as much
    work as the recorded ones, where there were any."""
    report: Report | None = None
    """Of the same unprofiled pass."""
    steps: list[ProfiledStep] | None = None
    graphs: list[Graph] | None = None
    """The CUDA graphs that the recorded steps replayed, with the spans of their GPU events."""


def check_writable(profile_dir: Path) -> None:
    """Raise RoseinferError now, not after the measurement, when run directories cannot be made in `profile_dir`."""
    try:
        profile_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RoseinferError(f"cannot create the profile directory {profile_dir}: {error.strerror}") from None
    if not os.access(profile_dir, os.W_OK | os.X_OK):
        raise RoseinferError(f"cannot write to the profile directory {profile_dir}: choose another with --profile-dir")


def create_run_dir(profile_dir: Path, name: str) -> Path:
    """A new directory called by time and `name`; a second run in the same second gets a number."""
    check_writable(profile_dir)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        run_dir = profile_dir / f"{stem}{suffix}"
        try:
            run_dir.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RoseinferError(f"cannot create the run directory {run_dir}: {error.strerror}") from None
        return run_dir
    raise RoseinferError(f"{profile_dir} holds a thousand runs of this second")


def remove_run_dir(run_dir: Path) -> None:
    """Take back a run directory that holds nothing worth keeping."""
    for path in run_dir.iterdir():
        path.unlink()
    run_dir.rmdir()


def write_json(path: Path, document: object) -> None:
    """Write a whole document or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def compress(plain: Path, on_progress: Callable[[int], None]) -> Path:
    """Gzip a trace at level 1; torch's own level 9 takes several times as long for a tenth less.

    `on_progress` gets the bytes done since it was last called. The plain file goes once the other is whole.
    """
    target = plain.with_name(f"{plain.name}.gz")
    try:
        with plain.open("rb") as source, gzip.open(target, "wb", compresslevel=1) as sink:
            while piece := source.read(_COPY_BYTES):
                sink.write(piece)
                on_progress(len(piece))
    except OSError:
        target.unlink(missing_ok=True)
        raise
    plain.unlink()
    return target


def point_latest_to(run_dir: Path) -> None:
    """Make `latest` beside the run directory a link to it; file systems without links go without."""
    link = run_dir.with_name(f".latest-{run_dir.name}")
    try:
        link.symlink_to(run_dir.name)
        link.replace(run_dir.with_name("latest"))
    except OSError:
        link.unlink(missing_ok=True)
