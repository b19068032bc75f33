"""Ctrl-C, SIGTERM and SIGHUP end a command in one way: what was measured or answered is saved first."""

import signal
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")
"""Signals that act like Ctrl-C, SIGINT. Windows has the first only."""


class _Received:
    """The signal that interrupts this process, SIGINT unless another one arrived first."""

    number = signal.SIGINT


def end_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, unless the parent process has them ignored, as nohup does."""
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def interrupted_code() -> int:
    """Return the exit code of an interrupted command, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + _Received.number


def is_ctrl_c() -> bool:
    """True unless another signal than that of Ctrl-C interrupted this process."""
    return _Received.number == signal.SIGINT


def interrupted_word() -> str:
    """Return "interrupted", or which other signal ended the command."""
    return "interrupted" if is_ctrl_c() else f"ended by {signal.Signals(_Received.number).name}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Received.number = signal.Signals(number)
    raise KeyboardInterrupt
