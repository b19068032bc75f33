"""Output: results go to stdout; progress, notes and errors to stderr. Only a terminal gets colour and progress."""

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
    """Values of --quiet and --debug for the one command that this process runs."""

    quiet = False
    debug = False


settings = _Settings()


def print_json(document: object) -> None:
    """Print the one JSON document of a call with --json."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def note(message: str) -> None:
    """Print a line on stderr, unless --quiet is given."""
    if not settings.quiet:
        stderr.print(message, markup=False, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Print an error as one line on stderr, even if the message has several."""
    stderr.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, unit: str = "steps") -> Iterator[ProgressCallback | None]:
    """Show a progress bar and yield its callback; yield None if stderr is no terminal. Unit "bytes" shows sizes."""
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
    """Yield a function that adds a progress bar for a stage of work; yield None if stderr is no terminal.

    A bar appears at the first progress of its stage.
    """
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
