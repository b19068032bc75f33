"""Several engines that share a load, each in a process of its own: data parallelism."""

import atexit
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec
import torch

from roseinfer.config import EngineConfig, Mode
from roseinfer.distributed.rank_channel import ChannelClosed, Kind, RankChannel
from roseinfer.distributed.rank_messages import decoded, decoded_error, encoded
from roseinfer.distributed.rank_processes import end_within, started_process
from roseinfer.distributed.torchrun import is_under_torchrun
from roseinfer.engine.device import resolve_device
from roseinfer.engine.engine import Engine
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.processors import usable_processors
from roseinfer.progress import ProgressCallback
from roseinfer.weights.resolve import ModelSource
from roseinfer.workload.clock import WALL_CLOCK
from roseinfer.workload.dealing import EncodedRequest, dealt, encoded_load, joined
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import WorkloadResult, run_load
from roseinfer.workload.pass_progress import reporting

WORKER_MODULE = "roseinfer.bench.engine_process"

_HEAD_START_S = 0.02
"""Seconds between the last preparation and the common start of a pass."""

_EXIT_S = 5.0
"""Seconds that a process has to end by itself."""

T = TypeVar("T")


class SentPass(msgspec.Struct, frozen=True, kw_only=True):
    """One pass of an engine over its part of a load."""

    mode: Mode
    max_batch_size: int
    requests: list[EncodedRequest]


class EngineTeam:
    """The engines of data parallelism but the first, which this process runs itself."""

    def __init__(self, config: EngineConfig, source: ModelSource, size: int) -> None:
        """Start `size` - 1 processes and let them build their engines of the model that `resolve` found."""
        self.size = size
        self._channels: list[RankChannel] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        atexit.register(self.close)
        for index in range(1, size):
            channel, process = started_process(WORKER_MODULE, [], _visible_devices(config, index))
            self._channels.append(channel)
            self._processes.append(process)
        self.process_ids = [process.pid for process in self._processes]
        self._send(Kind.BUILD, [encoded((config, source))] * (size - 1))

    def wait_until_ready(self) -> None:
        """Wait until all engines are built. Raises RoseinferError, naming the engine, if one cannot be."""
        for index in range(1, self.size):
            self._receive(index, Kind.READY)

    def run_load(
        self, engine: Engine, mode: Mode, load: Sequence[PlannedRequest], on_progress: ProgressCallback | None = None
    ) -> WorkloadResult:
        """Run one pass over a load on all engines, of which `engine` is the first.

        `on_progress` learns of the first engine's part. Raises RoseinferError, naming the engine, if one fails.
        """
        own, *others = dealt(encoded_load(load, engine), self.size)
        limit = engine.limits.max_batch_size
        passes = [SentPass(mode=mode, max_batch_size=limit, requests=part) for part in others]
        self._call("prepare", [encoded(each) for each in passes])
        start_s = WALL_CLOCK.now_s() + _HEAD_START_S
        self._send(Kind.COMMAND, [encoded(("run", encoded(start_s)))] * len(others))
        WALL_CLOCK.wait_until(start_s)
        result = run_load(engine, mode, own, on_step=reporting(on_progress, own))
        return joined([result, *self._replies(WorkloadResult)])

    def capture_missing(self) -> None:
        """Capture the CUDA graphs that the last pass asked for, on all engines but the first."""
        self._call("capture", [b""] * len(self._channels))

    def close(self) -> None:
        """End all processes."""
        atexit.unregister(self.close)
        for channel in self._channels:
            channel.shut_down()
        for process in self._processes:
            end_within(process, _EXIT_S)
        for channel in self._channels:
            channel.close()

    def _call(self, name: str, payloads: list[bytes]) -> None:
        self._send(Kind.COMMAND, [encoded((name, payload)) for payload in payloads])
        self._replies(type(None))

    def _replies(self, kind: type[T]) -> list[T]:
        return [decoded(self._receive(index, Kind.REPLY), kind) for index in range(1, self.size)]

    def _send(self, kind: Kind, payloads: list[bytes]) -> None:
        for index, payload in enumerate(payloads, 1):
            try:
                self._channels[index - 1].send(kind, payload)
            except ChannelClosed:
                raise self._end_of(index) from None

    def _receive(self, index: int, kind: Kind) -> bytes:
        try:
            found, payload = self._channels[index - 1].receive()
        except ChannelClosed:
            raise self._end_of(index) from None
        if found == Kind.FAILED:
            raise decoded_error(payload, f"engine {index} of --data-parallel {self.size}")
        assert found == kind
        return payload

    def _end_of(self, index: int) -> RoseinferError:
        how = "has ended"
        with suppress(subprocess.TimeoutExpired):
            code = self._processes[index - 1].wait(1.0)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return RoseinferError(f"engine {index} of --data-parallel {self.size} {how}: start again")


def engine_config(config: EngineConfig, size: int) -> EngineConfig:
    """Return the settings of each of `size` engines: on a CPU, they share its cores.

    Raises UsageError if there are not enough GPUs, or if torchrun has started this process.
    """
    if is_under_torchrun():
        raise UsageError("--data-parallel starts its processes itself: run roseinfer without torchrun")
    device = resolve_device(config.device)
    if device.type == "cpu":
        threads = max(1, len(usable_processors()) // (size * config.tensor_parallel))
        given = config.threads is not None or "OMP_NUM_THREADS" in os.environ
        return config if given else msgspec.structs.replace(config, threads=threads)
    if ":" in config.device:
        raise UsageError(f"--device {config.device} is one GPU: give --device cuda with --data-parallel {size}")
    needed, count = size * config.tensor_parallel, torch.cuda.device_count()
    if needed > count:
        each = "" if config.tensor_parallel == 1 else f" with --tensor-parallel {config.tensor_parallel}"
        raise UsageError(f"--data-parallel {size}{each} needs {needed} GPUs, and PyTorch sees {count}: lower it")
    return config


def _visible_devices(config: EngineConfig, index: int) -> dict[str, str]:
    """Return the environment variable that shows an engine's process its own GPUs only."""
    if resolve_device(config.device).type != "cuda":
        return {}
    ranks = config.tensor_parallel
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[index * ranks : (index + 1) * ranks])}
