"""The other ranks as rank 0 sees them: starting their processes, sending them work, noticing that one is gone."""

import atexit
import hmac
import os
import queue
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from roseinfer.distributed.driver_files import remove_driver_files, remove_own_driver_files_at_exit
from roseinfer.distributed.rank_channel import ChannelClosed, Kind, RankChannel
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.distributed.rank_messages import decoded, decoded_error, decoded_plain, encoded
from roseinfer.distributed.rank_processes import end_within, rank_processes
from roseinfer.distributed.stores import HOST, Store, new_store, torchrun_store
from roseinfer.distributed.torchrun import TorchrunRank
from roseinfer.errors import RoseinferError, lacks_memory

SILENCE_S = 7.0
"""Seconds without a message after which a rank counts as hung. Each rank sends one per second."""

_START_S = 120.0
"""Maximum seconds in which the processes of all ranks must start."""
_LAST_RESORT_S = 9.0
"""Seconds after the last message of a failed rank after which rank 0 ends its process, if a call that waits for that
rank cannot end. The driver takes some seconds to end kernels of a process that was killed, on one H200."""
_EXIT_S = 3.0
"""Seconds that a rank has to end by itself."""


class RankTeam:
    """Processes of ranks 1, 2, ... and the group of all ranks. Only rank 0 has one.

    A thread receives the messages of all ranks. When a rank ends, fails or is silent, the thread ends the others and
    the collectives that wait for them; `watching` then raises the reason.
    """

    def __init__(self, channels: list[RankChannel], processes: list[subprocess.Popen[bytes]], store: Store) -> None:
        """`processes` is empty if torchrun has started the ranks."""
        self.size = len(channels) + 1
        self._channels, self._processes, self._store = channels, processes, store
        self.process_ids = [process.pid for process in processes] or [0] * len(channels)
        """Process ids of ranks 1, 2, ...; 0 while that of a rank is not known."""
        self._group: RankGroup | None = None
        self._replies: list[queue.SimpleQueue[tuple[Kind, bytes]]] = [queue.SimpleQueue() for _ in channels]
        self._failure: RoseinferError | None = None
        self._busy: set[int] = set()  # indexes of ranks that may be silent
        self._failed = threading.Event()
        self._noticed = threading.Event()
        self._waiting = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._watch, name="roseinfer-ranks", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @classmethod
    def started(cls, size: int, device_type: str) -> "RankTeam":
        """Start a process per rank on this host. Their group is ready once `group` returns."""
        channels, processes = rank_processes(size)
        store = new_store()
        for channel in channels:
            with suppress(ChannelClosed):  # noticed by the team
                channel.send(Kind.START, encoded((device_type, store.port)))
        return cls(channels, processes, store)

    @classmethod
    def under_torchrun(cls, place: TorchrunRank) -> "RankTeam":
        """Connect to the ranks that torchrun has started."""
        store = torchrun_store(place)
        with socket.create_server((HOST, 0)) as server:
            secret = secrets.token_hex(32)
            store.set("secret", secret)
            store.set("port", str(server.getsockname()[1]))
            server.settimeout(_START_S)
            connections: dict[int, RankChannel] = {}
            try:
                while len(connections) < place.size - 1:
                    channel = RankChannel(server.accept()[0])
                    rank = _introduced(channel, secret)
                    if rank is None or not 0 < rank < place.size:
                        channel.close()  # any program of this host can connect
                    else:
                        connections[rank] = channel
            except TimeoutError:
                raise RoseinferError(
                    f"only {len(connections) + 1} of {place.size} ranks started within {_START_S:.0f} s: start again"
                ) from None
        return cls([connections[rank] for rank in range(1, place.size)], [], store)

    def group(self, device: torch.device) -> RankGroup:
        """Return the group of all ranks, in which this process is rank 0 and computes on `device`."""
        with self.watching():
            if self._group is None:
                for rank in range(1, self.size):
                    _, payload = self._next(rank, Kind.HELLO, _START_S)
                    self.process_ids[rank - 1] = int(payload)
                if device.type == "cuda":
                    remove_own_driver_files_at_exit()
                self._group = RankGroup(self._store, 0, self.size, device)
        return self._group

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a message to every other rank."""
        try:
            for channel in self._channels:
                channel.send(kind, payload)
        except ChannelClosed:
            self._failed.wait(_EXIT_S)
            self.check()
            raise RoseinferError("a rank of --tensor-parallel has ended: start again") from None

    def call(self, command: str, *arguments: Any, is_answered: bool = True) -> None:
        """Let every other rank run one of its commands, or a function named `module:function` with the rank's worker.

        `answers` must be called next, and waits for the results, unless the call is not answered.
        """
        self.check()
        self.send(Kind.COMMAND, encoded((command, arguments, is_answered)))

    def answers(self) -> list[Any]:
        """Wait for the results of the last command, by rank."""
        with self.watching():
            return [decoded_plain(self._next(rank, Kind.REPLY)[1]) for rank in range(1, self.size)]

    def wait_until_ready(self) -> None:
        """Wait until every other rank has built its engine."""
        with self.watching():
            for rank in range(1, self.size):
                self._next(rank, Kind.READY)

    def check(self) -> None:
        """Raise RoseinferError if a rank has failed."""
        if self._failure is not None:
            self._noticed.set()
            raise type(self._failure)(str(self._failure)) from None

    def raise_cause(self, error: RuntimeError) -> None:
        """Raise RoseinferError if an error comes from the end of another rank.

        A collective ends with an error when another rank is gone, often before the thread has noticed.
        """
        if not lacks_memory(error) and self._failed.wait(_EXIT_S):
            self.check()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run a block that waits for other ranks. Raises RoseinferError, naming the rank, if one fails meanwhile."""
        self.check()
        self._waiting += 1
        try:
            yield
        except (RoseinferError, MemoryError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            self.raise_cause(error)
            raise
        except BaseException:
            self._failure = self._failure or RoseinferError("a step was interrupted: build the engine again")
            raise
        finally:
            self._waiting -= 1
        self.check()

    def close(self) -> None:
        """End the processes of all other ranks, and wait until they have ended."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.close)
        self._failure = self._failure or RoseinferError("the engine is closed: build it again")
        for channel in self._channels:
            with suppress(ChannelClosed):
                channel.send(Kind.END)
            channel.shut_down()
        if self._group is not None:
            with suppress(RuntimeError):  # ended already when a rank failed
                self._group.abort()
        for process in self._processes:
            end_within(process, _EXIT_S)
        if threading.current_thread() is not self._thread:
            self._thread.join(_EXIT_S)
        self._remove_files()
        for channel in self._channels:
            channel.close()

    def _remove_files(self) -> None:
        """Remove what the GPU's driver leaves of ranks that were killed."""
        if self._group is not None and self._group.device.type == "cuda":
            for process_id in self.process_ids:
                if process_id:
                    remove_driver_files(process_id)

    def _next(self, rank: int, kind: Kind, timeout_s: float | None = None) -> tuple[Kind, bytes]:
        """Return the next message of a rank, which must be of this kind. Raises the failure if a rank fails."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                found, payload = self._replies[rank - 1].get(timeout=0.05)
            except queue.Empty:
                self.check()
                if deadline is not None and time.monotonic() > deadline:
                    raise RoseinferError(f"rank {rank} did not start within {timeout_s:.0f} s: start again") from None
                continue
            if found != kind:
                raise RoseinferError(f"rank {rank} sent {found.name} instead of {kind.name}: start again")
            return found, payload

    def _watch(self) -> None:
        """Receive the messages of all ranks until one fails or the team is closed."""
        with selectors.DefaultSelector() as selector:
            last_s: dict[int, float] = {}  # time of the last message of each rank that has sent one
            for index, channel in enumerate(self._channels):
                selector.register(channel, selectors.EVENT_READ, index)
            while not self._is_closed:
                for key, _ in selector.select(0.5):
                    last_s[key.data] = time.monotonic()
                    if (failure := self._receive(key.data)) is not None:
                        self._fail(failure)
                        return
                for index, seen_s in last_s.items():
                    if index not in self._busy and time.monotonic() - seen_s > SILENCE_S:
                        silence = f"rank {index + 1} has not answered for {SILENCE_S:.0f} s: start again"
                        self._fail(RoseinferError(silence), SILENCE_S)
                        return

    def _receive(self, index: int) -> RoseinferError | None:
        """Read what a rank has sent. Returns its failure, if it failed."""
        channel = self._channels[index]
        try:
            channel.fill()
        except ChannelClosed:
            return None if self._is_closed else self._end_of(index)
        while (message := channel.received()) is not None:
            kind, payload = message
            if kind == Kind.FAILED:
                return decoded_error(payload, f"rank {index + 1}")
            if kind == Kind.BUSY:
                self._busy.add(index)
            elif kind == Kind.RESUMED:
                self._busy.discard(index)
            elif kind != Kind.ALIVE:
                self._replies[index].put(message)
        return None

    def _end_of(self, index: int) -> RoseinferError:
        rank, how = index + 1, "has ended"
        if self._processes:
            with suppress(subprocess.TimeoutExpired):
                code = self._processes[index].wait(1.0)
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return RoseinferError(f"rank {rank} of --tensor-parallel {self.size} {how}: start again")

    def _fail(self, failure: RoseinferError, silent_s: float = 0.0) -> None:
        """End all ranks and their collectives, so that no call of this process waits for them any longer.

        `silent_s` is the time since the failed rank's last message.
        """
        if self._is_closed:
            return
        self._failure = failure
        for process in self._processes:
            process.kill()
        if not self._processes:
            for process_id in self.process_ids:
                if process_id:
                    with suppress(ProcessLookupError):
                        os.kill(process_id, signal.SIGKILL)
        self._failed.set()
        if self._group is not None and self._group.device.type == "cuda":
            threading.Thread(target=self._group.abort, daemon=True).start()
        if self._waiting and not self._noticed.wait(_LAST_RESORT_S - silent_s):
            if not self._waiting or self._is_closed:
                return
            self._remove_files()
            remove_driver_files(os.getpid())
            sys.stderr.write(f"error: {failure}\n")
            sys.stderr.flush()
            os._exit(failure.exit_code)


_idle: dict[tuple[int, str], RankTeam] = {}
"""Teams whose engines were closed, by number of ranks and type of device. The next such engine uses their processes."""


def team_of(size: int, device_type: str, place: TorchrunRank | None) -> RankTeam:
    """Return a team of ranks: one that a closed engine has released, or a new one."""
    team = _idle.pop((size, device_type), None)
    if team is not None and team._failure is None:
        return team
    return RankTeam.started(size, device_type) if place is None else RankTeam.under_torchrun(place)


def release(team: RankTeam, device_type: str) -> None:
    """Let other ranks drop their engine. A team that failed, or that is one too many, is closed."""
    with suppress(RoseinferError):
        team.check()
        team.send(Kind.RELEASE)
        if (team.size, device_type) not in _idle:
            _idle[team.size, device_type] = team
            return
    team.close()


def _introduced(channel: RankChannel, secret: str) -> int | None:
    """Return the rank at the other end of a new connection; None unless it knows the secret of the ranks' store."""
    channel.max_bytes, before = 1024, channel.max_bytes
    channel.set_timeout(_EXIT_S)
    try:
        rank, found = decoded(channel.receive()[1], tuple[int, str])
    except (ChannelClosed, RoseinferError):
        return None
    channel.max_bytes = before
    channel.set_timeout(None)
    return rank if hmac.compare_digest(found.encode(), secret.encode()) else None
