"""The work of a rank other than 0: it builds the engine of its rank, and launches the steps that rank 0 sends."""

import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import msgspec
import torch

from roseinfer.distributed.driver_files import remove_driver_files
from roseinfer.distributed.rank_channel import ChannelClosed, Kind, RankChannel
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.distributed.rank_messages import decoded, encoded, encoded_error
from roseinfer.distributed.stores import HOST, Store, torchrun_store
from roseinfer.distributed.torchrun import TorchrunRank
from roseinfer.engine.launch import Launch, checksum_with
from roseinfer.engine.memory import is_out_of_memory
from roseinfer.engine.runner import Runner
from roseinfer.engine.step_batch import StepBatch
from roseinfer.errors import RoseinferError
from roseinfer.spans import span

_PARENT_END_S = 4.0
"""Maximum seconds that rank 0 takes to end after it has closed its connections: the driver frees its GPU's memory."""

_ALIVE_S = 1.0
"""Seconds between two messages to rank 0 that this process runs."""

BuildRunner = Callable[[bytes, RankGroup], Runner]
"""Builds this rank's runner from the payload of a BUILD message."""


class RankWorker:
    """Receives messages of rank 0 and does what they say, until rank 0 ends or closes the connection."""

    def __init__(
        self,
        channel: RankChannel,
        store: Store,
        rank: int,
        size: int,
        device: torch.device,
        parent_id: int | None = None,
    ) -> None:
        """`parent_id` is the process id of rank 0, if it has started this process."""
        self._channel, self._parent_id = channel, parent_id
        self._place = store, rank, size, device
        self.rank, self.size = rank, size
        self.state: dict[str, Any] = {}
        """Objects of functions that rank 0 calls, which live as long as the engine."""
        self.step_label = ""
        """Label of the step's span, which rank 0 tells while it records."""
        self._decoder = msgspec.msgpack.Decoder(StepBatch)
        self._runner: Runner | None = None
        self._unread: Launch | None = None
        self._checksum = 0
        self._commands: dict[str, Callable[..., Any]] = {
            "capture_missing": self._capture_missing,
            "checksum": self._drawn_checksum,
        }

    def serve(self, build: BuildRunner) -> None:
        """Serve rank 0 and end the process: with code 0 once rank 0 is gone, with another after an error."""
        threading.Thread(target=self._report, name="roseinfer-alive", daemon=True).start()
        try:
            self._serve(build)
        except ChannelClosed:
            self._exit_without_leader()
        except RoseinferError as error:
            self._fail(type(error), str(error))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._fail(RoseinferError, "no memory is left: lower --max-batch-tokens or --kv-cache-memory")
            # A collective fails when another rank is gone, and rank 0 knows which one.
            self._channel.wait_for_end(_ALIVE_S)
            self._fail_unexpectedly(error)
        except BaseException as error:
            self._fail_unexpectedly(error)

    def _serve(self, build: BuildRunner) -> None:
        store, rank, size, device = self._place
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.zeros(1, device=device)  # initializes CUDA before rank 0 waits in the group
        self._channel.send(Kind.HELLO, str(os.getpid()).encode())
        group = RankGroup(store, rank, size, device)
        while True:
            kind, payload = self._channel.receive()
            if kind == Kind.STEP:
                self._launch(payload)
            elif kind == Kind.BUILD:
                self._checksum = 0
                self._runner = build(payload, group)
                self._channel.send(Kind.READY)
            elif kind == Kind.COMMAND:
                name, arguments, is_answered = decoded(payload, tuple[str, list[Any], bool])
                with self._silent() if ":" in name else nullcontext():
                    result = self._command(name)(*arguments)
                if is_answered:
                    self._channel.send(Kind.REPLY, encoded(result))
            elif kind == Kind.RELEASE:
                self._runner = self._unread = None
                self.state.clear()
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            elif kind == Kind.END:
                self._exit(0)

    @property
    def runner(self) -> Runner:
        """The runner of this rank's engine."""
        assert self._runner is not None
        return self._runner

    def _launch(self, payload: bytes) -> None:
        with span("roseinfer.step", lambda: self.step_label):
            launch = self.runner.launch(self._decoder.decode(payload))
            self.read()
            self._unread = launch

    def _command(self, name: str) -> Callable[..., Any]:
        """Return a command of this worker, or a function of a module of this package that takes the worker."""
        module, _, function = name.partition(":")
        if not function or not module.startswith("roseinfer."):
            return self._commands[name]
        return partial(getattr(import_module(module), function), self)

    def read(self) -> None:
        """Count the tokens of the newest launch, one launch late: so the host never waits for the device."""
        if self._unread is not None:
            self._checksum = checksum_with(self._checksum, self._unread.tokens())
            self._unread = None

    def _capture_missing(self) -> None:
        self.runner.capture_missing()

    def _drawn_checksum(self) -> int:
        self.read()
        return self._checksum

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Tell rank 0 that this rank may not report for a while."""
        self._channel.send(Kind.BUSY)
        yield
        self._channel.send(Kind.RESUMED)

    def _report(self) -> None:
        """Tell rank 0 every second that this process runs. End the process as soon as rank 0 is gone."""
        while not self._channel.wait_for_end(_ALIVE_S):
            try:
                self._channel.send(Kind.ALIVE)
            except ChannelClosed:
                break
        self._exit_without_leader()

    def _exit_without_leader(self) -> None:
        """End this process after rank 0, and remove what the GPU's driver leaves if rank 0 was killed."""
        if self._place[3].type == "cuda" and self._parent_id is not None:
            for _ in range(round(_PARENT_END_S / 0.1)):
                if os.getppid() != self._parent_id:  # only now has it ended
                    remove_driver_files(self._parent_id)
                    break
                time.sleep(0.1)
        self._exit(0)

    def _exit(self, code: int) -> None:
        """End this process at once, however busy its device is."""
        remove_driver_files(os.getpid())
        os._exit(code)

    def _fail(self, error_type: type[RoseinferError], text: str) -> None:
        try:
            self._channel.send(Kind.FAILED, encoded_error(error_type, text))
            self._channel.wait_for_end(2 * _ALIVE_S)  # rank 0 reads the message, and ends this process
        except ChannelClosed:
            pass
        self._exit(1)

    def _fail_unexpectedly(self, error: BaseException) -> None:
        traceback.print_exc()
        sys.stderr.flush()
        self._fail(RoseinferError, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def serve_under_torchrun(place: TorchrunRank, device: torch.device, build: BuildRunner) -> None:
    """Serve rank 0 in a process that torchrun has started as another rank. Does not return."""
    store = torchrun_store(place)
    connection = socket.create_connection((HOST, int(store.get("port"))))
    channel = RankChannel(connection)
    channel.send(Kind.HELLO, encoded((place.rank, bytes(store.get("secret")).decode())))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    RankWorker(channel, store, place.rank, place.size, device).serve(build)
