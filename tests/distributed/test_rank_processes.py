"""Processes of ranks start before anybody needs them, and Ctrl-C leaves them to rank 0."""

import os
import signal
from pathlib import Path

import pytest

from roseinfer.distributed import rank_processes as module
from roseinfer.distributed.rank_channel import Kind
from roseinfer.distributed.rank_processes import RankProcesses, rank_processes, start_ranks_early, started_process


def test_ctrl_c_does_not_end_a_started_process() -> None:
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(module.__file__).parents[2])])
    channel, process = started_process("answering_process", [], {"PYTHONPATH": folders})
    assert channel.receive()[0] == Kind.HELLO
    os.kill(process.pid, signal.SIGINT)
    channel.send(Kind.COMMAND)
    assert channel.receive()[0] == Kind.REPLY
    assert process.wait(10) == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "this process still hears it"
    channel.close()


def test_an_engine_uses_the_processes_that_started_early(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(size: int) -> RankProcesses:
        started.append(size)
        return RankProcesses([], [])

    monkeypatch.setattr(module, "_started", start)
    monkeypatch.setattr(module, "_early", {})
    for _ in range(2):
        start_ranks_early(2)
    start_ranks_early(99)  # refused later, since no host has so many GPUs
    assert started == [2]
    rank_processes(2)
    assert started == [2]
    rank_processes(2)
    assert started == [2, 2]
