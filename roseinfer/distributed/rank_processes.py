"""Processes of ranks 1, 2, ... that rank 0 starts on this host.

Needs no torch, so that a command can start the processes before it imports torch itself.
"""

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from roseinfer.distributed.rank_channel import RankChannel

WORKER_MODULE = "roseinfer.engine.rank_process"


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
    """Start the processes of `size` ranks for the next engine with so many."""
    if size not in _early:
        _early[size] = _started(size)


def rank_processes(size: int) -> RankProcesses:
    """Return the processes that `start_ranks_early` has started, or new ones."""
    return _early.pop(size, None) or _started(size)


@atexit.register
def _end_unused() -> None:
    for ranks in _early.values():
        ranks.end()


def _started(size: int) -> RankProcesses:
    channels, processes = [], []
    for rank in range(1, size):
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(rank), str(size), str(theirs.fileno())]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", WORKER_MODULE, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                )
            )
        channels.append(RankChannel(ours))
    return RankProcesses(channels, processes)


def _environment() -> dict[str, str]:
    """Return the environment of a rank's process, in which this very package is imported.

    torch's libraries do not warn there: they would report that rank 0 is gone, with stacks of C++.
    """
    folder = str(Path(__file__).parents[2])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
