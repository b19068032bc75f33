"""What a worker reports of its passes, with a scripted engine, and how it serves a task, with a real one."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedEngine

from roseinfer.advice.recorded_run import RecordedRun
from roseinfer.advice.trial_messages import ELSEWHERE, SAMPLE, WARM_UP, Built, Sample, TrialTask, Warm
from roseinfer.advice.trial_process import TrialProcess, TrialStarter
from roseinfer.advice.trial_worker import sample_of, served
from roseinfer.config import EngineConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import WorkloadResult, run_load

PARAMS = SamplingParams(max_new_tokens=11, stop_on_eos=False)


def passes(*arrivals_s: float) -> WorkloadResult:
    engine = ScriptedEngine(decode_s=0.1, token_s=0.01, submit_s=0.5)
    load = [PlannedRequest(prompt=[1, 2, 3, 4], params=PARAMS, arrival_s=arrival_s) for arrival_s in arrivals_s]
    return run_load(engine.as_engine, "online", load, clock=engine.clock)


def test_a_pass_is_timed_per_token_and_by_phase() -> None:
    once = sample_of([passes(0, 0)], over_time=False)
    assert once.seconds == pytest.approx({"prefill": 0.08, "decode": 1.0, ELSEWHERE: 1.0})
    assert once.cost == pytest.approx(2.08 / 22)
    twice = sample_of([passes(0, 0), passes(0, 0)], over_time=False)
    assert twice.cost == pytest.approx(once.cost)
    assert twice.seconds == pytest.approx(once.seconds)


def test_requests_that_arrive_over_time_are_timed_themselves() -> None:
    apart = sample_of([passes(0, 100)], over_time=True)
    assert apart.cost == pytest.approx(2 * (0.5 + 0.04 + 1.0) / 22)


def task(model: Path, **changes: object) -> TrialTask:
    config = RunConfig(
        engine=EngineConfig(model=str(model), dtype="float32", device="cpu", max_model_len=32),
        sampling=PARAMS,
        workload=WorkloadConfig(prompts=("ab",), **changes),  # type: ignore[arg-type]
    )
    return TrialTask(config, "CPU", 0.1, min_sample_s=0.0)


def test_a_worker_answers_what_it_is_asked_and_then_ends(tiny_llama: Path) -> None:
    answers = list(served(task(tiny_llama), [WARM_UP, SAMPLE, SAMPLE, b"\n", SAMPLE]))
    assert [type(each) for each in answers] == [Built, Warm, Sample, Sample]


def test_a_process_runs_a_pass_per_sample(tiny_llama: Path) -> None:
    ends_s = time.monotonic() + 120
    with TrialProcess(task(tiny_llama), lambda: ends_s) as process:
        process.warm_up()
        assert [process.sample() > 0 for _ in range(2)] == [True, True]
    assert len(process.seconds) == 2


def test_a_run_of_another_device_or_of_a_missing_model_fails(tiny_llama: Path) -> None:
    elsewhere = TrialTask(task(tiny_llama).config, "NVIDIA H100", 0.1, 0.0)
    with pytest.raises(UsageError, match="recorded on NVIDIA H100, and this machine has no GPU"):
        list(served(elsewhere, []))
    with pytest.raises(RoseinferError, match="no-such-model"):
        list(served(task(Path("/no-such-model")), []))


def test_after_the_deadline_no_answer_is_taken_for_that_to_a_later_question(tiny_llama: Path) -> None:
    ends_s = time.monotonic() + 120
    with TrialProcess(task(tiny_llama), lambda: ends_s) as process:
        process.warm_up()
        ends_s = 0.0
        for _ in range(10):
            with pytest.raises(TimeoutError):
                process.sample()
            time.sleep(0.05)


def test_a_process_that_ends_at_once_says_why(monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> None:
    monkeypatch.setattr("sys.executable", "false")
    ended = "the process of an engine ended with code 1"
    with (
        TrialProcess(task(tiny_llama), lambda: time.monotonic() + 60) as process,
        pytest.raises(RoseinferError, match=ended),
    ):
        process.warm_up()


def test_of_engines_that_cannot_all_be_started_none_is_left(monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if started:
                raise OSError("no more processes")
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    run = RecordedRun(
        run_dir=Path("run"),
        config=task(tiny_llama).config,
        device="CPU",
        model=None,
        parameters=0,
        threads=1,
        cores=1,
        requests=1,
        prompt_tokens=1,
        pass_s=0.0,
    )
    starter = TrialStarter(run, residents=1, deadline_s=lambda: time.monotonic() + 60)
    with pytest.raises(RoseinferError, match="cannot be started: no more processes"):
        starter([{}, {"overlap": True}])
    assert [each.returncode is not None for each in started] == [True]
