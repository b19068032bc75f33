"""`roseinfer summarize RUN --rerun`: profile the workload of a run again, with the current code.

Imports torch when called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roseinfer.advice.recorded_run import read_config
from roseinfer.cli import console

if TYPE_CHECKING:
    from roseinfer.trace import Summary


def rerun(run_dir: Path) -> "Summary":
    """Profile the workload of `run_dir` again, into a new run directory in the same folder; return the new summary.

    Raises UsageError for a directory that `roseinfer profile` did not write.
    """
    config = read_config(run_dir, "--rerun")
    from roseinfer.cli.profile.profiled_run import record_run

    profile = msgspec.structs.replace(config.profile, profile_dir=str(run_dir.resolve().parent))
    config = msgspec.structs.replace(config, profile=profile)
    result = record_run(config)
    console.note(f"[profile] wrote: {result.session.run_dir}")
    return result.session.summary
