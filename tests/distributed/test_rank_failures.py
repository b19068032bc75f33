"""A rank that ends, fails or hangs ends the run with one line that names it, and leaves no process behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_llama

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.distributed import rank_processes, rank_team
from roseinfer.distributed.rank_channel import Kind, RankChannel
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.distributed.rank_messages import decoded_error
from roseinfer.distributed.rank_team import RankTeam
from roseinfer.engine import rank_worker
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.engine.rank_worker import RankWorker
from roseinfer.engine.runner import Runner
from roseinfer.errors import ModelError, RoseinferError

pytestmark = pytest.mark.usefixtures("single_threaded")

KILLED = r"^rank 1 of --tensor-parallel 2 was ended by SIGKILL: start again$"
LONG = SamplingParams(max_new_tokens=100, stop_on_eos=False)


@pytest.fixture
def engine(tiny_llama: Path) -> Iterator[Engine]:
    config = EngineConfig(model=str(tiny_llama), device="cpu", dtype="float32", tensor_parallel=2, max_batch_tokens=8)
    engine = build_engine(config)
    yield engine
    engine.close()


def rank_process(engine: Engine) -> int:
    """The process id of rank 1."""
    assert isinstance(engine.runner, LeadingRunner)
    return engine.runner.team.process_ids[0]


def assert_gone(process_id: int, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while is_running(process_id):
        assert time.monotonic() < deadline, f"process {process_id} still runs"
        time.sleep(0.02)


def is_running(process_id: int) -> bool:
    """True for a process that runs, False for one that has ended, even if its parent has not noticed."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def fails(engine: Engine, message: str, run: Callable[[], Any]) -> None:
    """The call ends within ten seconds, the error names the rank, later calls repeat it, and rank 1 is gone."""
    process_id = rank_process(engine)
    started_s = time.monotonic()
    with pytest.raises(RoseinferError, match=message):
        run()
    assert time.monotonic() - started_s < 10
    assert_gone(process_id)
    with pytest.raises(RoseinferError, match=message):
        engine.generate("again", LONG)


def test_a_rank_that_is_killed_while_idle(engine: Engine) -> None:
    engine.generate("hi", SamplingParams(max_new_tokens=2))
    os.kill(rank_process(engine), signal.SIGKILL)
    fails(engine, KILLED, lambda: engine.generate("hi", LONG))


def test_a_rank_that_is_killed_between_the_chunks_of_a_prompt(engine: Engine) -> None:
    scheduler = engine.scheduler("online")
    scheduler.submit("a prompt of some steps", LONG)
    scheduler.step()
    os.kill(rank_process(engine), signal.SIGKILL)
    fails(engine, KILLED, scheduler.run)


def test_a_rank_that_is_killed_while_rank_0_waits_for_it(engine: Engine) -> None:
    process_id = rank_process(engine)
    os.kill(process_id, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (process_id, signal.SIGKILL))
    timer.start()
    fails(engine, KILLED, lambda: engine.generate("hi", LONG))
    timer.join()


def test_a_rank_that_hangs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_team, "SILENCE_S", 2.0)
    os.kill(rank_process(engine), signal.SIGSTOP)
    fails(engine, "^rank 1 has not answered for 2 s: start again$", lambda: engine.generate("hi", LONG))


def test_a_rank_that_runs_out_of_memory(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_team, "_idle", {})
    monkeypatch.setattr(rank_processes, "WORKER_MODULE", "failing_rank")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    engine = build_engine(EngineConfig(model=str(tiny_llama), device="cpu", dtype="float32", tensor_parallel=2))
    message = "^rank 1: no memory is left: lower --max-batch-tokens or --kv-cache-memory$"
    fails(engine, message, lambda: engine.generate("hi", LONG))


def test_a_rank_that_fails_ends_only_after_rank_0_has_read_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a collective in which rank 0 waits could break first, and the error would not say what has happened."""
    monkeypatch.setattr(rank_worker, "_ALIVE_S", 60.0)
    has_read, serving = threading.Event(), threading.current_thread()
    codes: list[tuple[int, bool]] = []

    def noted_exit(code: int) -> None:
        if threading.current_thread() is serving:
            codes.append((code, has_read.is_set()))
            raise SystemExit

    def build(payload: bytes, group: RankGroup) -> Runner:
        raise ModelError("no such file")

    def lead(channel: RankChannel) -> None:
        channel.send(Kind.BUILD)
        while (message := channel.receive())[0] != Kind.FAILED:
            pass
        assert str(decoded_error(message[1], "rank 1")) == "rank 1: no such file"
        time.sleep(0.2)  # a rank that did not wait would have ended
        has_read.set()
        channel.close()

    monkeypatch.setattr(os, "_exit", noted_exit)
    ours, theirs = (RankChannel(end) for end in socket.socketpair())
    leader = threading.Thread(target=lead, args=(ours,))
    leader.start()
    with pytest.raises(SystemExit):
        RankWorker(theirs, torch.distributed.HashStore(), 0, 1, torch.device("cpu")).serve(build)
    leader.join()
    for thread in threading.enumerate():
        if thread.name == "roseinfer-alive":
            thread.join()
    assert codes == [(1, True)]


def test_a_rank_that_is_killed_before_it_has_started(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_team, "_idle", {})
    started = RankTeam.started

    def started_and_killed(size: int, device_type: str) -> RankTeam:
        team = started(size, device_type)
        os.kill(team.process_ids[0], signal.SIGKILL)
        return team

    monkeypatch.setattr(RankTeam, "started", started_and_killed)
    started_s = time.monotonic()
    with pytest.raises(RoseinferError, match=KILLED):
        build_engine(EngineConfig(model=str(tiny_llama), device="cpu", tensor_parallel=2))
    assert time.monotonic() - started_s < 10


GENERATE = [sys.executable, "-m", "roseinfer", "generate", "--device", "cpu", "--tensor-parallel", "2", "--quiet"]


def started_run(model: Path) -> tuple["subprocess.Popen[str]", int]:
    """A command that generates for long, once it has printed the first text, and the process id of its rank 1."""
    options = ["--model", str(model), "--max-new-tokens", "1000000", "--max-model-len", "100000", "ids:1,2,3"]
    process = subprocess.Popen(GENERATE + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.read(1)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, int(child)


@pytest.fixture(scope="module")
def long_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a context that a run cannot fill."""
    return save_llama(tmp_path_factory.mktemp("long"), max_position_embeddings=100_000)


def test_the_command_prints_the_line_and_exits_with_1(long_llama: Path) -> None:
    process, rank_1 = started_run(long_llama)
    os.kill(rank_1, signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert errors == "error: rank 1 of --tensor-parallel 2 was ended by SIGKILL: start again\n"


def test_other_ranks_end_with_rank_0(long_llama: Path) -> None:
    process, rank_1 = started_run(long_llama)
    process.kill()
    process.communicate(timeout=10)
    assert_gone(rank_1)


def test_under_torchrun_rank_0_runs_the_command_and_the_others_serve_it(tiny_llama: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    torchrun = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options = ["--model", str(tiny_llama), "--max-new-tokens", "4", "--json", "ids:1,2,3"]
    ranks = [
        subprocess.Popen(
            GENERATE + options,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert len(json.loads(outputs[0][0])["outputs"][0]["token_ids"]) == 4
    assert outputs[0][1] == b""
    assert outputs[1] == (b"", b"")
