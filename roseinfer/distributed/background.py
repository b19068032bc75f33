"""The result of a function that runs in a thread, while the caller does something else."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs a function in a thread. The end of the process does not wait for it."""

    def __init__(self, run: Callable[[], T], name: str) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._results: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def result(self) -> T:
        """Wait for the function and return its result. Raises what it raised, or RuntimeError after `give_up`."""
        if not self._results:
            with self._changed:
                self._changed.wait_for(lambda: self._results or self._error is not None)
            if not self._results:
                assert self._error is not None
                raise self._error
        return self._results[0]

    @property
    def finished(self) -> T | None:
        """The result, or None while there is none."""
        return self._results[0] if self._results else None

    def give_up(self) -> None:
        """End all waits for a result."""
        self._end(RuntimeError("the wait was given up"))

    def _work(self) -> None:
        try:
            result = self._run()
        except BaseException as error:
            self._end(error)
            return
        with self._changed:
            self._results.append(result)
            self._changed.notify_all()

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
