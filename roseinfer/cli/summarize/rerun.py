"""`roseinfer summarize RUN --rerun`: profile the workload of a run again, with the current code.

Imports torch when called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from roseinfer.cli import console
from roseinfer.config import RunConfig
from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.trace import Summary


class _Recipe(msgspec.Struct, frozen=True):
    """The part of a manifest that defines the run."""

    config: dict[str, Any]


def rerun(run_dir: Path) -> "Summary":
    """Profile the workload of `run_dir` again, into a new run directory in the same folder; return the new summary.

    Raises UsageError for a directory that `roseinfer profile` did not write.
    """
    config = _config_of(run_dir)
    from roseinfer.cli.profile.profiled_run import record_run

    profile = msgspec.structs.replace(config.profile, profile_dir=str(run_dir.resolve().parent))
    config = msgspec.structs.replace(config, profile=profile)
    result = record_run(config)
    console.note(f"[profile] wrote: {result.session.run_dir}")
    return result.session.summary


def _config_of(run_dir: Path) -> RunConfig:
    path = run_dir / "manifest.json"
    if not path.is_file():
        raise UsageError(f"--rerun takes a run directory of `roseinfer profile`: {run_dir} has no manifest.json")
    try:
        recipe = msgspec.json.decode(path.read_bytes(), type=_Recipe)
        config = msgspec.convert(recipe.config, RunConfig, str_keys=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot run {path} again: {error}") from None
    if set(recipe.config) != set(config.__struct_fields__):
        raise UsageError(f"cannot run {path} again: profile_session recorded it, not `roseinfer profile`")
    return config
