"""The process of an engine of data parallelism: `python -m roseinfer.bench.engine_process SOCKET`.

It builds the engine that the first process describes, runs its part of each pass, and ends with the first process.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from roseinfer.bench.engine_team import SentPass
from roseinfer.bench.grid import with_batch_limit
from roseinfer.bench.protocol import collector_off
from roseinfer.config import EngineConfig
from roseinfer.distributed.rank_channel import ChannelClosed, Kind, RankChannel
from roseinfer.distributed.rank_messages import decoded, encoded, encoded_error
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import RoseinferError
from roseinfer.weights.resolve import ModelSource
from roseinfer.workload.clock import WALL_CLOCK
from roseinfer.workload.load_runner import WorkloadResult, run_load

_READ_S = 2.0
"""Seconds in which the other end reads what was sent last, or this process ends by itself."""


class EngineProcess:
    """Does what the first process asks for."""

    def __init__(self, channel: RankChannel) -> None:
        self._channel = channel
        self._engine: Engine | None = None
        self._pass: SentPass | None = None
        self._commands: dict[str, Callable[[bytes], Any]] = {
            "prepare": self._prepare,
            "run": self._run,
            "capture": self._capture,
        }

    def serve(self) -> None:
        """Serve the first process until it closes the connection."""
        threading.Thread(target=self._end_with_first, daemon=True).start()
        with suppress(ChannelClosed):  # also while a failure is sent: the first process had one of its own
            try:
                self._serve()
            except RoseinferError as error:
                self._channel.send(Kind.FAILED, encoded_error(type(error), str(error)))
                self._channel.wait_for_end(_READ_S)

    def _serve(self) -> None:
        while True:
            kind, payload = self._channel.receive()
            if kind == Kind.BUILD:
                config, source = decoded(payload, tuple[EngineConfig, ModelSource])
                self._engine = build_engine(config, source=source)
                self._channel.send(Kind.READY)
            else:
                name, argument = decoded(payload, tuple[str, bytes])
                self._channel.send(Kind.REPLY, encoded(self._commands[name](argument)))

    @property
    def engine(self) -> Engine:
        """The engine, once it is built."""
        assert self._engine is not None
        return self._engine

    def _prepare(self, payload: bytes) -> None:
        self._pass = decoded(payload, SentPass)

    def _run(self, payload: bytes) -> WorkloadResult:
        assert self._pass is not None
        engine = with_batch_limit(self.engine, self._pass.max_batch_size)
        with collector_off():
            WALL_CLOCK.wait_until(decoded(payload, float))
            return run_load(engine, self._pass.mode, self._pass.requests)

    def _capture(self, _payload: bytes) -> None:
        self.engine.runner.capture_missing()

    def _end_with_first(self) -> None:
        """End this process soon after the first, also in the middle of a pass."""
        while not self._channel.wait_for_end(1.0):
            pass
        threading.Event().wait(_READ_S)
        os._exit(0)


def main() -> None:
    """Serve the first process until it ends."""
    EngineProcess(RankChannel(socket.socket(fileno=int(sys.argv[1])))).serve()


if __name__ == "__main__":
    main()
