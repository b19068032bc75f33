"""Profiling a workload for a command, with progress.

Imports torch: commands import this module only when they run.
"""

from roseinfer.cli import console
from roseinfer.cli.loading import load_engine
from roseinfer.config import RunConfig
from roseinfer.profiling.profile_run import ProfileResult, profile_run
from roseinfer.workload.load_plan import plan_load


def record_run(config: RunConfig) -> ProfileResult:
    """Build the engine, plan its load, and record a profile of it."""
    engine = load_engine(config.engine)
    load = plan_load(config.workload, config.sampling, engine)
    with console.stages() as stage:
        result = profile_run(
            engine,
            load,
            config,
            on_stage=stage,
            on_warning=lambda warning: console.note(f"[profile] warning: {warning}"),
        )
    host = result.session.manifest.host
    if host is not None and (disturbance := host.disturbance) is not None:
        console.note(f"[profile] warning: in the timed pass, the machine was not this run's alone: {disturbance}")
    return result
