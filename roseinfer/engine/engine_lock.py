"""The lock of an engine: one thread at a time plans, launches and reads steps, in the process that built it."""

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from roseinfer.errors import UsageError


class EngineLock:
    """A lock that a thread may take several times, and that refuses the processes that a fork makes.

    A fork copies neither the threads that compute nor the state of a GPU, so that an engine would hang or crash there.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process_id = os.getpid()

    def check_process(self) -> None:
        """Raise UsageError in a process that was forked after the engine was built."""
        if os.getpid() != self._process_id:
            raise UsageError(
                f"the engine belongs to process {self._process_id}, and a fork of that process cannot use it: "
                'call build_engine in this process, and start processes by the method "spawn"'
            )

    def __enter__(self) -> None:
        self.check_process()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _UsesEngine(Protocol):
    engine: Any


S = TypeVar("S", bound=_UsesEngine)
P = ParamSpec("P")
R = TypeVar("R")


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method of an object with an `engine` run while no other thread uses that engine."""

    @wraps(method)
    def locked(self: S, /, *args: P.args, **options: P.kwargs) -> R:
        with self.engine.lock:
            return method(self, *args, **options)

    return locked
