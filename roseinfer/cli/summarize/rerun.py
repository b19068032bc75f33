"""`roseinfer summarize RUN --rerun`: profile a run's workload again, with today's code. Imports torch when called."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from roseinfer.cli import console
from roseinfer.config import RunConfig
from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.trace import Summary


class _Recipe(msgspec.Struct, frozen=True):
    """The part of a manifest that says how to make the run again."""

    config: dict[str, Any]


def rerun(run_dir: Path) -> "Summary":
    """Profile again what `run_dir` holds, into a new run directory beside it; the new summary.

    Raises UsageError for a directory that no engine's run made.
    """
    config = _config_of(run_dir)
    from roseinfer.cli.profile.profiled_run import record_run

    beside = msgspec.structs.replace(config.profile, profile_dir=str(run_dir.resolve().parent))
    config = msgspec.structs.replace(config, profile=beside)
    result = record_run(config)
    console.note(f"[profile] wrote: {result.session.run_dir}")
    return result.session.summary


def _config_of(run_dir: Path) -> RunConfig:
    path = run_dir / "manifest.json"
    if not path.is_file():
        raise UsageError(f"--rerun takes a run directory of `roseinfer profile`, with its manifest.json; got {run_dir}")
    try:
        recipe = msgspec.json.decode(path.read_bytes(), type=_Recipe)
        config = msgspec.convert(recipe.config, RunConfig, str_keys=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be run again: {error}") from None
    if set(recipe.config) != set(config.__struct_fields__):
        raise UsageError(f"{path} is of a loop that no engine ran: there is nothing to run again")
    return config
