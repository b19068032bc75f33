"""A profile run on disk: where its files lie, and the manifest that says how they were made."""

import os
import time
from pathlib import Path

import msgspec

from roseinfer.config import Mode, RunConfig
from roseinfer.errors import RoseinferError
from roseinfer.workload.provenance import ModelInfo, Versions
from roseinfer.workload.report import Report

SCHEMA_VERSION = 1


class Schedule(msgspec.Struct, frozen=True):
    """The profiler's schedule, in steps."""

    wait: int
    warmup: int
    active: int


class ProfiledStep(msgspec.Struct, frozen=True):
    """One active step."""

    index: int
    """Counted from the start of the recording, waiting and warm-up included."""
    cycle: int
    phase: str
    batch: int
    tokens: int
    context_tokens: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.json."""

    schema_version: int = SCHEMA_VERSION
    versions: Versions
    device: str
    rank: int
    world_size: int
    config: RunConfig
    model: ModelInfo
    schedule: Schedule
    baseline_step_ms: dict[str, float]
    """Median wall time of a step by phase, measured before the process first touched a profiler."""
    report: Report
    steps: list[ProfiledStep]
    traces: list[str]
    """File names inside the run directory."""
    warnings: list[str]


def check_writable(profile_dir: Path) -> None:
    """Raise RoseinferError now, not after the measurement, when run directories cannot be made in `profile_dir`."""
    try:
        profile_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RoseinferError(f"cannot create the profile directory {profile_dir}: {error.strerror}") from None
    if not os.access(profile_dir, os.W_OK | os.X_OK):
        raise RoseinferError(f"cannot write to the profile directory {profile_dir}: choose another with --profile-dir")


def create_run_dir(profile_dir: Path, mode: Mode) -> Path:
    """A new directory named by time and mode; a second run in the same second gets a number."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{mode}"
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


def write_json(path: Path, document: object) -> None:
    """Write a whole document or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    partial.replace(path)


def point_latest_to(run_dir: Path) -> None:
    """Make `latest` beside the run directory a link to it; file systems without links go without."""
    link = run_dir.with_name(f".latest-{run_dir.name}")
    try:
        link.symlink_to(run_dir.name)
        link.replace(run_dir.with_name("latest"))
    except OSError:
        link.unlink(missing_ok=True)
