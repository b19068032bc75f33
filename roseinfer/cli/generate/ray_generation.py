"""Run a call of `generate --ray`: answer files of requests on the actors of a Ray cluster.

Imports torch and Ray: the command imports this module only when it runs.
"""

import sys
import time
from contextlib import closing
from functools import partial

from roseinfer.cli import console
from roseinfer.cli.generate.block_files import BlockSink, open_sink
from roseinfer.cli.generate.generate_call import GenerateCall
from roseinfer.cli.generate.generation import prompt_form, report, with_model
from roseinfer.cli.generate.generation_statistics import Tally
from roseinfer.cli.progress_line import Progress
from roseinfer.cli.ray_session import RayProgress, ray_session
from roseinfer.errors import RoseinferError
from roseinfer.ray.blocks import read_blocks
from roseinfer.trace.naming import counted
from roseinfer.workload.request_lines import count_requests


def write_blocks(call: GenerateCall, address: str, input_file: str) -> None:
    """Write the answers to a file or stdout in the order of the requests, or to a folder with a file per block."""
    call, source = with_model(call)
    total = count_requests(input_file) or 0
    name = call.lines_to or "-"
    tally = Tally()
    with open_sink(name, is_folder=call.writes_into_folder, resume=call.resume) as sink:
        try:
            with ray_session(address) as progress:
                _run(call, input_file, total, sink, tally, progress)
        except (KeyboardInterrupt, RoseinferError) as error:
            if name != "-" and (tally.answers or isinstance(error, KeyboardInterrupt)):
                console.note(f"[generate] {name} has {len(sink.answered) + tally.answers} answers: --resume continues")
            raise
    report(call, source.name, tally, name)


def _run(call: GenerateCall, name: str, total: int, sink: BlockSink, tally: Tally, progress: RayProgress) -> None:
    """Answer the requests on the connected cluster, and count the answers in `tally`."""
    import ray

    from roseinfer.ray.job import plan_actors, run_job  # imports Ray

    done = sink.answered
    plan = plan_actors(call.config.engine, call.actors, total - len(done))
    progress.start_actors(plan.actors)
    read = partial(read_blocks, name, call.config.sampling, ray.put(dict(done)), plan.block_size)
    # On one terminal, a progress line and lines of output would garble each other.
    is_hidden = call.lines_to == "-" and sys.stdout.isatty()
    line: Progress | None = None
    with closing(run_job(call.config, prompt_form(call), plan, read)) as answers:
        for answer in answers:
            if tally.answers == 0:
                tally.started_s = time.perf_counter() - max(time.time() - answer.started_s, 0.0)
                progress.end()
                line = None if is_hidden else progress.begin("Generating")
            sink.add(answer.number, answer.place, answer.lines)
            tally.add_counts(
                answers=answer.answers,
                refused=answer.refused,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                ttft_s=answer.ttft_s,
            )
            if line is not None:
                speed = tally.statistics()
                line.what = (
                    f"Generating, {speed.completion_tokens:,} tokens, {speed.completion_tokens_per_s:,.0f} tokens/s on "
                    f"{counted(plan.actors, 'actor')}"
                )
                line(len(done) + tally.answers, total)
