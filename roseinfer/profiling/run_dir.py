"""Run directory of a profile: its files, and the manifest that describes how they were recorded."""

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.engine.limits import StepLimits
from roseinfer.errors import RoseinferError
from roseinfer.models.expert_use import ExpertBalance
from roseinfer.profiling.recorder import RecordedCycle
from roseinfer.trace.reading.trace_manifest import Graph
from roseinfer.whole_file import replaced_file, usual_mode
from roseinfer.workload.host_use import HostUse
from roseinfer.workload.pass_report import Report
from roseinfer.workload.provenance import ModelInfo, Versions

SCHEMA_VERSION = 1
_COPY_BYTES = 1 << 20


class ProfiledStep(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded step."""

    index: int
    """Index of the step in the loop, counted from 0, including waiting and warm-up steps."""
    cycle: int
    phase: str
    batch: int
    tokens: int
    context_tokens: int
    bytes: int
    """Bytes that the step must move: weights, keys and values, logits."""
    flops: int


class UnprofiledSteps(msgspec.Struct, frozen=True, kw_only=True):
    """Unprofiled steps of one phase with as many requests and tokens."""

    phase: str
    batch: int
    tokens: int
    steps: int
    wall_ms: float
    """Median wall time of a step."""
    bytes: int
    """Median bytes that a step must move."""
    flops: int


class RunManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of manifest.json. Fields about an engine are missing if the recorded loop ran no engine."""

    schema_version: int
    versions: Versions
    device: str
    rank: int
    world_size: int
    config: dict[str, Any]
    """Tables of the run's configuration."""
    schedule: dict[str, Any]
    cycles: list[RecordedCycle]
    traces: list[str]
    """File names of the traces inside the run directory."""
    warnings: list[str]
    model: ModelInfo | None = None
    limits: StepLimits | None = None
    """Maximum requests and tokens per step, set or following the device."""
    ceilings: dict[str, float] | None = None
    """Measured peak rates of the device: copy_bytes_per_s, flops_per_s."""
    baseline_step_ms: dict[str, float] | None = None
    """Wall time of an unprofiled step by phase, in ms, measured before the process first started a profiler.

    It is the median over steps with as much work as a recorded step, averaged over the recorded steps. Without such
    steps, it is the median over all of the phase.
    """
    baseline_steps: list[UnprofiledSteps] | None = None
    """The same unprofiled steps by work, so that times and floors are compared over steps of the same work."""
    host: HostUse | None = None
    """Threads, and cores used, of the unprofiled pass."""
    experts: ExpertBalance | None = None
    """How evenly tokens of the unprofiled pass used the experts; None for a model without experts."""
    report: Report | None = None
    """Counts, times and rates of the unprofiled pass that ran before the recording."""
    steps: list[ProfiledStep] | None = None
    graphs: list[Graph] | None = None
    """CUDA graphs that the recorded steps replayed, with the span of each GPU event."""


def check_writable(profile_dir: Path) -> None:
    """Raise RoseinferError if no run directory can be created in `profile_dir`. Call this before measuring."""
    try:
        profile_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RoseinferError(f"cannot create the profile directory {profile_dir}: {error.strerror}") from None
    if not os.access(profile_dir, os.W_OK | os.X_OK):
        raise RoseinferError(f"cannot write to the profile directory {profile_dir}: choose another")


def create_run_dir(profile_dir: Path, name: str) -> Path:
    """Create a directory named by the time and `name`. A second run in the same second gets a number suffix."""
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
    raise RoseinferError(f"{profile_dir} already has 999 runs of this second: try again")


def remove_run_dir(run_dir: Path) -> None:
    """Delete a run directory and its files."""
    for path in run_dir.iterdir():
        path.unlink()
    run_dir.rmdir()


def write_json(path: Path, document: object) -> None:
    """Write a JSON document whole or not at all. Raises OSError if it cannot be written."""
    with replaced_file(path, mode=usual_mode(path)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def compress(uncompressed: Path, on_progress: Callable[[int], None]) -> Path:
    """Compress a trace with gzip level 1, delete the uncompressed file, and return the new path.

    Level 9, which torch uses, takes several times as long for a file one tenth smaller. `on_progress` is called with
    the number of bytes read since its last call.
    """
    target = uncompressed.with_name(f"{uncompressed.name}.gz")
    try:
        with uncompressed.open("rb") as source, gzip.open(target, "wb", compresslevel=1) as sink:
            while piece := source.read(_COPY_BYTES):
                sink.write(piece)
                on_progress(len(piece))
    except OSError:
        target.unlink(missing_ok=True)
        raise
    uncompressed.unlink()
    return target


def point_latest_to(run_dir: Path) -> None:
    """Make `latest`, in the parent folder, a symbolic link to the run directory, if the file system supports links."""
    link = run_dir.with_name(f".latest-{run_dir.name}")
    try:
        link.symlink_to(run_dir.name)
        link.replace(run_dir.with_name("latest"))
    except OSError:
        link.unlink(missing_ok=True)
