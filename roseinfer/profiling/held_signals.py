"""Signals that wait until a piece of work is whole: Ctrl-C raises KeyboardInterrupt between any two lines of Python."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that may have a handler in Python which raises an exception. Windows lacks the last."""


class HeldSignals:
    """Context manager whose body no signal interrupts, between `open` and `close`. It may be entered inside itself.

    A signal that arrives in the body is handled when the outermost body ends. Python runs handlers on the main thread,
    so elsewhere nothing is held. A signal without a handler in Python acts at once, as before.
    """

    def __init__(self) -> None:
        self._depth = self._users = 0
        self._waiting: list[int] = []
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}

    def open(self) -> None:
        """Begin to receive signals. Outside the body they are passed on at once. Every call needs a `close`."""
        self._users += 1
        if self._users > 1 or threading.current_thread() is not threading.main_thread():
            return
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def close(self) -> None:
        """Give the signals back to their handlers, if this is the last of the `close` calls."""
        self._users -= 1
        if self._users:
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        while self._waiting and not self._depth:
            number = self._waiting.pop()
            self._handlers[number](number, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._waiting.append(number)
        else:
            self._handlers[number](number, frame)
