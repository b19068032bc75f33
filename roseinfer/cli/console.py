"""Where output goes: results to stdout; progress, notes and errors to stderr, in colour only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.markup import escape

from roseinfer.progress import ProgressCallback

stdout = Console(soft_wrap=False)
stderr = Console(stderr=True)


class _Settings:
    """What --quiet and --debug say, for the one command that this process runs."""

    quiet = False
    debug = False


settings = _Settings()


def print_json(document: object) -> None:
    """The one JSON document of a `--json` call."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def note(message: str) -> None:
    """A line on stderr that is no result."""
    if not settings.quiet:
        stderr.print(message, markup=False, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """One line, whatever the message holds."""
    stderr.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, unit: str = "steps") -> Iterator[ProgressCallback | None]:
    """A progress bar on a terminal; None elsewhere. `unit` "bytes" shows sizes."""
    if settings.quiet or not stderr.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages() -> Iterator[Callable[[str], ProgressCallback] | None]:
    """A progress bar for each part of a longer work, shown from its first news on; None when not on a terminal."""
    if settings.quiet or not stderr.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as bars:

        def stage(what: str) -> ProgressCallback:
            task = bars.add_task(what, total=None, visible=False)
            return lambda done, total: bars.update(task, completed=done, total=total, visible=True)

        yield stage
