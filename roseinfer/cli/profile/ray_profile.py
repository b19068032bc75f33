"""A call of `profile --ray`: record one actor of a Ray cluster in the middle of a job.

Imports torch and Ray: only the command imports this module, when it runs.
"""

from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from roseinfer.cli.loading import find_model
from roseinfer.cli.progress_line import Progress
from roseinfer.cli.ray_session import RayProgress, ray_session
from roseinfer.config import RunConfig
from roseinfer.errors import RoseinferError
from roseinfer.profiling.run_dir import RunManifest, create_run_dir, point_latest_to, write_json
from roseinfer.profiling.session import SessionResult
from roseinfer.ray.blocks import BlockAnswer, drawn_blocks
from roseinfer.trace import summarize_trace
from roseinfer.whole_file import write_whole
from roseinfer.workload.load_plan import requests_per_pass
from roseinfer.workload.prompts import PromptForm

_PASSES_PER_ACTOR = 3


def record_actor(config: RunConfig, address: str, actors: int | None) -> SessionResult:
    """Run the workload on the cluster, and return the recording of the actor that computes the middle of it.

    Raises RoseinferError if no step was recorded.
    """
    find_model(config.engine)
    with ray_session(address) as progress:
        recorded = _recorded_block(config, actors, progress)
    name = f"{config.workload.mode}-{recorded.actor.replace(':', '-')}"
    run_dir = create_run_dir(Path(config.profile.profile_dir), name)
    for file, content in recorded.files.items():
        write_whole(run_dir / file, content)
    manifest = msgspec.json.decode(recorded.files["manifest.json"], type=RunManifest)
    if not manifest.traces:
        raise RoseinferError(f"actor {recorded.actor} recorded nothing: {'; '.join(manifest.warnings)}")
    summary = summarize_trace(run_dir)
    write_json(run_dir / "summary.json", summary)
    point_latest_to(run_dir)
    traces = [run_dir / trace for trace in manifest.traces]
    return SessionResult(run_dir=run_dir, traces=traces, summary=summary, manifest=manifest)


def _recorded_block(config: RunConfig, actors: int | None, progress: RayProgress) -> BlockAnswer:
    """Answer the workload several times per actor, and return the answer with the recorded files."""
    from roseinfer.ray.job import plan_actors, run_job  # imports Ray

    count = plan_actors(config.engine, actors, None).actors
    total = requests_per_pass(config) * _PASSES_PER_ACTOR * count
    plan = plan_actors(config.engine, actors, total)
    progress.start_actors(count)
    middle = -(-total // plan.block_size) // 2
    read = partial(drawn_blocks, total, plan.block_size, middle)
    found: BlockAnswer | None = None
    line: Progress | None = None
    done = 0
    with closing(run_job(config, PromptForm(raw=config.workload.raw), plan, read, warms_up=True)) as answers:
        for answer in answers:
            if done == 0:
                line = progress.begin("Recording one actor")
            done += answer.answers
            if line is not None:
                line(done, total)
            if answer.files:
                found = answer
    assert found is not None, "the job has a block in its middle"
    return found
