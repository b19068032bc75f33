"""Output: results go to stdout; progress, notes and errors to stderr. Only a terminal gets colour.

Rich takes longer to import than all of `--help` takes to print, so its consoles are made on first use.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, TextIO

from roseinfer.cli.progress_line import Progress, ProgressLine, Stages
from roseinfer.cli.visible_text import visible

if TYPE_CHECKING:
    from rich.console import Console

    stdout: Console
    stderr: Console


class _Settings:
    """Values of --quiet and --debug for the one command that this process runs."""

    quiet = False
    debug = False


settings = _Settings()


def __getattr__(name: str) -> object:
    """Make the console called `stdout` or `stderr` on first use."""
    if name not in ("stdout", "stderr"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    # Rich takes COLUMNS=0, which means "unknown" to others, literally, and would print nothing.
    columns = width() if os.environ.get("COLUMNS") == "0" else None
    console = Console(width=columns) if name == "stdout" else Console(stderr=True, width=columns)
    globals()[name] = console
    return console


def width() -> int:
    """Return the columns of the terminal, or those that $COLUMNS asks for; 80 if neither is known."""
    return shutil.get_terminal_size().columns


def has_colors(stream: TextIO) -> bool:
    """True if text on the stream may have colours: on a terminal, or with $FORCE_COLOR, and never with $NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream)


def print_json(document: object) -> None:
    """Print the one JSON document of a call with --json."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def note(message: str) -> None:
    """Print a line on stderr, unless --quiet is given."""
    if not settings.quiet:
        _print_line(visible(message))


def print_error(message: str) -> None:
    """Print an error as one line on stderr, even if the message has several."""
    label = "\x1b[1;31merror:\x1b[0m" if sys.stderr is not None and has_colors(sys.stderr) else "error:"
    _print_line(f"{label} {' '.join(visible(message).split())}")


@contextmanager
def progress(what: str, unit: str = "", *, ticks: bool = False) -> Iterator[Progress | None]:
    """Show one stage of work on stderr, see `stages`; yield the callback of its progress, or None with --quiet."""
    with stages() as stage:
        yield None if stage is None else stage(what, unit, ticks=ticks)


@contextmanager
def stages() -> Iterator[Stages | None]:
    """Yield a function that shows the next stage of work on stderr, see `Stages`; yield None with --quiet."""
    if settings.quiet or sys.stderr is None:
        yield None
        return
    with _progress_line(sys.stderr).stages() as stage:
        yield stage


@cache
def _progress_line(stream: TextIO) -> ProgressLine:
    return ProgressLine(stream, is_terminal=_is_terminal(stream), width=width())


def _print_line(text: str) -> None:
    if sys.stderr is None:  # the parent process closed it
        return
    if not settings.quiet:
        _progress_line(sys.stderr).clear()
    with suppress(OSError, ValueError):  # a note that cannot be shown is no failure
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _is_terminal(stream: TextIO) -> bool:
    """True if the stream is a terminal that moves its cursor."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
