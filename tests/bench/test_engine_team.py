"""Two engines that share a load answer all of it, as one engine does, and their speed is compared with one."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from roseinfer.bench import engine_team
from roseinfer.bench.cell_measurement import measure_cell
from roseinfer.bench.engine_team import WORKER_MODULE, EngineTeam, engine_config
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import bench_run
from roseinfer.cli.app import run
from roseinfer.cli.bench.result_output import remarks
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.costs.ceilings import Ceilings
from roseinfer.distributed.rank_channel import Kind, RankChannel
from roseinfer.distributed.rank_messages import encoded, encoded_error
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError, RoseinferError, UsageError
from roseinfer.models.shapes import SHAPES
from roseinfer.weights.resolve import resolve

pytestmark = pytest.mark.usefixtures("single_threaded")

PARAMS = SamplingParams(max_new_tokens=5, stop_on_eos=False)
CELL = Cell(
    name="offline",
    mode="offline",
    max_batch_size=2,
    workload=WorkloadConfig(mode="offline", prompt_length="3..9", num_requests=4, turns=2),
    sampling=PARAMS,
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[tuple[Engine, EngineTeam]]:
    config = EngineConfig(model=str(tiny_llama), device="cpu", dtype="float64", max_batch_size=4)
    team = EngineTeam(config, resolve(config.model, config.load_format, SHAPES), 2)
    engine = build_engine(config)
    team.wait_until_ready()
    yield engine, team
    team.close()
    engine.close()


def test_a_load_on_two_engines_has_the_answers_of_one(engines: tuple[Engine, EngineTeam]) -> None:
    engine, team = engines
    measured = measure_cell(engine, CELL, repeats=1, team=team)
    answers = [
        sorted((output.prompt_token_ids, output.token_ids) for output in results[0].outputs)
        for results in (measured.alone, measured.results)
    ]
    assert len(answers[0]) == 8
    assert answers[0] == answers[1]
    assert {step.batch for step in measured.results[0].steps} <= {1, 2}
    figures = bench_run(measured, Ceilings(copy_bytes_per_s=1e12, flops_per_s=1e12), startup_s=0.0)
    assert figures.data_parallel is not None
    assert figures.data_parallel.engines == 2
    expected = figures.completion_tokens_per_s.mean / figures.data_parallel.alone.mean
    assert figures.data_parallel.speedup == pytest.approx(expected)
    assert remarks(figures)[0].startswith(f"offline: 2 engines, {expected:.2f} times one engine with ")


def test_an_engine_that_ends_is_named(engines: tuple[Engine, EngineTeam]) -> None:
    engine, team = engines
    os.kill(team.process_ids[0], signal.SIGKILL)
    with pytest.raises(RoseinferError, match=r"^engine 1 of --data-parallel 2 was ended by SIGKILL: start again$"):
        measure_cell(engine, CELL, repeats=1, team=team)


def test_an_engine_that_cannot_be_built_says_why(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    RankChannel(theirs).send(Kind.FAILED, encoded_error(ModelError, "no room"))
    process = subprocess.Popen(["true"])
    monkeypatch.setattr(engine_team, "started_process", lambda *arguments: (RankChannel(ours), process))
    team = EngineTeam(EngineConfig(device="cpu"), resolve(str(tiny_llama), "auto", SHAPES), 2)
    with pytest.raises(ModelError, match=r"^engine 1 of --data-parallel 2: no room$"):
        team.wait_until_ready()
    team.close()


def test_an_engine_whose_first_process_failed_too_is_silent(tiny_llama: Path) -> None:
    config = EngineConfig(model=str(tiny_llama), device="cpu", tensor_parallel=3)
    ours, theirs = socket.socketpair()
    with closing(RankChannel(ours)) as channel:
        channel.send(Kind.BUILD, encoded((config, resolve(config.model, config.load_format, SHAPES))))
    process = subprocess.run(
        [sys.executable, "-m", WORKER_MODULE, str(theirs.fileno())], pass_fds=[theirs.fileno()], capture_output=True
    )
    theirs.close()
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")


def test_each_process_sees_the_gpus_of_its_own_engine(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    peers: list[socket.socket] = []

    def started(module: str, arguments: list[str], environment: dict[str, str]) -> tuple[RankChannel, Any]:
        shown.append(environment["CUDA_VISIBLE_DEVICES"])
        ours, theirs = socket.socketpair()
        peers.append(theirs)
        return RankChannel(ours), subprocess.Popen(["true"])

    monkeypatch.setattr(engine_team, "started_process", started)
    monkeypatch.setattr(engine_team, "resolve_device", torch.device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,1,0")
    config = EngineConfig(model=str(tiny_llama), device="cuda", tensor_parallel=2)
    EngineTeam(config, resolve(config.model, config.load_format, SHAPES), 3).close()
    assert shown == ["5,4", "1,0"]


def test_the_command_reports_the_speed_of_both(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--device cpu --data-parallel 2 --num-requests 3 --prompt-length 4 --max-new-tokens 3 --repeats 1 --json"
    monkeypatch.setattr("sys.argv", ["roseinfer", "bench", "--model", str(tiny_llama), *options.split()])
    assert run() == 0
    (document,) = json.loads(capsys.readouterr().out)["runs"]
    assert document["data_parallel"]["engines"] == 2
    assert (document["requests"], document["completion_tokens"]) == (3, 9)


def test_calls_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(model="gpt2", device="cpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        engine_config(config, 2)
