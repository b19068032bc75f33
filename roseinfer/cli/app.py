"""The command line: `roseinfer generate | bench | profile | summarize`.

No torch is imported before a command that needs it runs, so that `--help` is quick.
"""

import errno
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from roseinfer import __version__
from roseinfer.cli import console
from roseinfer.cli.bench.bench_command import bench
from roseinfer.cli.generate.generate_command import generate
from roseinfer.cli.profile.profile_command import profile
from roseinfer.cli.summarize.summarize_command import summarize
from roseinfer.errors import RoseinferError

app = typer.Typer(
    name="roseinfer",
    help="An LLM inference engine that explains its own speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with where there is no room."""

# Typer brings click, or since 0.26 its own copy of it: the exceptions are reached through a name that both export.
_CallError: type[Exception] = typer.BadParameter.__mro__[1]


def _version(value: bool) -> None:
    if value:
        console.stdout.print(f"roseinfer {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _with_our_endings(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """A command whose Ctrl-C and closed pipe are ended here: Typer would say nothing of the one, and fail the other."""

    @wraps(command)
    def wrapper(*args: Any, **options: Any) -> int | None:
        try:
            code = command(*args, **options)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            console.print_error("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _drop_stdout()  # whoever read it has had enough
            raise typer.Exit(0) from None

    return wrapper


for command in (generate, bench, profile, summarize):
    app.command()(_with_our_endings(command))


def main() -> None:
    """Run the command line; every failure becomes one line and an exit code."""
    if sys.stdout is None:  # closed: nobody wants it
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process runs
    code = run()
    try:
        sys.stdout.flush()
    except OSError:  # told of already
        _drop_stdout()
    sys.exit(code)


def run() -> int:
    """The exit code: 0, 1 a run that failed, 2 a wrong call, 3 a comparison past its limit, 130 Ctrl-C."""
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _CallError as error:
        return _wrong_call(error)
    except RoseinferError as error:
        if console.settings.debug:
            console.stderr.print_exception()
        console.print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.print_error("interrupted")
        return 130
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if console.settings.debug:
            console.stderr.print_exception()
        console.print_error(f"cannot write: {error.strerror}")
        return 1


def _drop_stdout() -> None:
    """Let what could not be written go nowhere: a flush at exit would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrong_call(error: Any) -> int:
    """One line in place of Typer's box."""
    where = error.ctx.command_path if error.ctx else "roseinfer"
    if message := error.format_message():
        console.print_error(f"{message.rstrip('.')} (see {where} --help)")
    return 2
