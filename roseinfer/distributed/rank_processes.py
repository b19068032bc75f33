"""Processes of ranks 1, 2, ... that rank 0 starts on this host.

Needs no torch, so that a command can start the processes before it imports torch itself.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from roseinfer.distributed.rank_channel import RankChannel

WORKER_MODULE = "roseinfer.engine.rank_process"

_MAX_EARLY = 8
"""Maximum ranks that start before anything has checked that there are as many GPUs."""


class RankProcesses(NamedTuple):
    """Processes of ranks 1, 2, ... and the connections to them. They wait for a START message."""

    channels: list[RankChannel]
    processes: list["subprocess.Popen[bytes]"]

    def end(self) -> None:
        """End all processes at once."""
        for channel, process in zip(self.channels, self.processes, strict=True):
            process.kill()
            process.wait()
            channel.close()


_early: dict[int, RankProcesses] = {}
"""Processes that no engine has asked for yet, by number of ranks."""


def start_ranks_early(size: int) -> None:
    """Start the processes of `size` ranks for the next engine with so many; of at most `_MAX_EARLY` ranks."""
    if size not in _early and size <= _MAX_EARLY:
        _early[size] = _started(size)


def rank_processes(size: int) -> RankProcesses:
    """Return the processes that `start_ranks_early` has started, or new ones."""
    return _early.pop(size, None) or _started(size)


@atexit.register
def _end_unused() -> None:
    for ranks in _early.values():
        ranks.end()


def started_process(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[RankChannel, "subprocess.Popen[bytes]"]:
    """Start `python -m module ARGUMENTS SOCKET`, and return the connection to the process.

    It prints nothing on stdout, and Ctrl-C, which reaches all processes of a terminal, does not end it.
    """
    ours, theirs = socket.socketpair()
    with theirs, _without_interrupts():
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**_environment(), **environment},
            pass_fds=[theirs.fileno()],
        )
    return RankChannel(ours), process


def end_within(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait until a process has ended, and end it after some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT. A process that is started meanwhile never receives it; this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(size: int) -> RankProcesses:
    started = [started_process(WORKER_MODULE, [str(rank), str(size)], {}) for rank in range(1, size)]
    return RankProcesses([channel for channel, _ in started], [process for _, process in started])


def _environment() -> dict[str, str]:
    """Return the environment of another process, in which this very package is imported.

    torch's libraries do not warn there: they would report that rank 0 is gone, with stacks of C++.
    """
    folder = str(Path(__file__).parents[2])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
