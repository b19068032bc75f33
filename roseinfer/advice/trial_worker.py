"""The process of one engine that is tried: `python -m roseinfer.advice.trial_worker`, driven over stdin and stdout."""

import gc
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import msgspec
import torch

from roseinfer.advice.trial_messages import (
    ELSEWHERE,
    SAMPLE,
    WARM_UP,
    Answer,
    Built,
    Failed,
    Sample,
    TrialTask,
    Warm,
)
from roseinfer.bench.protocol import timed_pass, warm_up
from roseinfer.bench.request_figures import request_figures
from roseinfer.config import EngineConfig
from roseinfer.engine.device import device_name, resolve_device
from roseinfer.engine.factory import build_engine
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.load_plan import plan_load
from roseinfer.workload.load_runner import WorkloadResult


def main() -> None:
    """Serve one task. Only answers go to the stdout that the process was started with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=TrialTask)
    try:
        for answer in served(task, sys.stdin.buffer):
            _send(answers, answer)
    except RoseinferError as error:
        _send(answers, Failed(str(error), error.exit_code))


def served(task: TrialTask, asked: Iterable[bytes]) -> Iterable[Answer]:
    """Build the engine of a task, and yield an answer to each line, until one of them asks for nothing known."""
    config = task.config
    engine = build_engine(_on_this_device(config.engine, task))
    load = plan_load(config.workload, config.sampling, engine)
    if all(request.params.max_new_tokens == 0 for request in load):
        raise UsageError("the run's --max-new-tokens 0 leaves nothing to measure")
    mode = config.workload.mode
    yield Built()
    for line in asked:
        if line == WARM_UP:
            warm_up(engine, mode, load)
            gc.collect()
            gc.freeze()  # each pass collects garbage first: what the libraries hold would take longer than a short pass
            yield Warm()
        elif line == SAMPLE:
            passes = [timed_pass(engine, mode, load)]
            while sum(_seconds(each) for each in passes) < task.min_sample_s:
                passes.append(timed_pass(engine, mode, load))
            yield sample_of(passes, over_time=config.workload.request_rate is not None)
        else:
            return


def sample_of(passes: Sequence[WorkloadResult], *, over_time: bool) -> Sample:
    """Return the mean of passes. With arrivals over time, a pass takes as long as they do, so requests are timed."""
    tokens = sum(len(output.token_ids) for result in passes for output in result.outputs)
    if over_time:
        spent = sum(figures.e2e_s or 0.0 for result in passes for figures in request_figures(result, 0))
    else:
        spent = sum(_seconds(result) for result in passes)
    seconds: defaultdict[str, float] = defaultdict(float)
    for result in passes:
        inside = 0.0
        for step in result.steps:
            seconds[step.phase] += step.wall_ms / 1e3 / len(passes)
            inside += step.wall_ms / 1e3
        seconds[ELSEWHERE] += max(0.0, _seconds(result) - inside) / len(passes)
    return Sample(spent / max(tokens, 1), dict(seconds))


def _seconds(result: WorkloadResult) -> float:
    return result.add_s + result.run_s


def _on_this_device(engine: EngineConfig, task: TrialTask) -> EngineConfig:
    """Return the settings with a KV cache that leaves memory to the other engines on the device.

    Raises UsageError if the run was recorded on another device.
    """
    device = resolve_device(engine.device)
    if device.type == "cpu":
        if not task.device.startswith("CPU"):
            raise UsageError(f"the run was recorded on {task.device}, and this machine has no GPU: try it there")
        return engine
    if device_name(device) != task.device:
        raise UsageError(f"the run was recorded on {task.device}, and this is {device_name(device)}: try it there")
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    return msgspec.structs.replace(engine, kv_cache_memory=f"{int(task.kv_share * total_bytes)}B")


def _send(answers: BinaryIO, answer: Answer) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
