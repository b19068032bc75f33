"""The command line: `roseinfer generate | bench | profile | summarize | merge | models`.

Torch is imported only by a command that needs it, when it runs, so that `--help` is fast.
"""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any

import typer

from roseinfer.cli import console, exit_codes
from roseinfer.cli.commands import CONTEXT_SETTINGS, Command, CommandGroup
from roseinfer.cli.safe_encoding import replace_missing_characters
from roseinfer.cli.signals import end_like_ctrl_c, interrupted_code, interrupted_word
from roseinfer.errors import RoseinferError, lacks_memory
from roseinfer.torch_environment import prepare_torch

COMMANDS = {
    "generate": Command("roseinfer.cli.generate.generate_command", "Complete prompts and stream the text to stdout."),
    "bench": Command(
        "roseinfer.cli.bench.bench_command",
        "Measure throughput and latency of a workload over several repeats, without a profiler.",
    ),
    "profile": Command(
        "roseinfer.cli.profile.profile_command",
        "Record some steps of a workload with torch.profiler into a run directory, and print the top operators.",
    ),
    "summarize": Command(
        "roseinfer.cli.summarize.summarize_command",
        "Explain a torch.profiler trace: where the time goes, why the GPU waits, and what to do about it.",
    ),
    "merge": Command(
        "roseinfer.cli.merge.merge_command",
        "Check that answers of generate are complete, and join them in the order of the requests.",
    ),
    "models": Command(
        "roseinfer.cli.models.models_command", "List the architectures, formats, quantizations and tokenizers that run."
    ),
}
"""The commands, in the order in which `--help` lists them."""

EXAMPLES = (
    ("Run the demo model", 'roseinfer generate "Name three planets."'),
    ("Measure it", "roseinfer bench"),
    (
        "Record five decode steps, and explain where their time goes",
        "roseinfer profile --phase decode --active 5\n  roseinfer summarize profiles/latest",
    ),
    ("Explain a trace of any PyTorch program", "roseinfer summarize trace.json.gz"),
    ("Show the options of a command", "roseinfer bench --help"),
)


def _with_clean_exit(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Wrap a command so that Ctrl-C prints a line and a closed pipe is no failure, unlike in Typer."""

    @wraps(command)
    def wrapper(*args: Any, **options: Any) -> int | None:
        gc.enable()  # off while modules were imported
        try:
            code = command(*args, **options)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            console.print_error(interrupted_word())
            raise typer.Exit(interrupted_code()) from None
        except BrokenPipeError:
            _drop_stdout()  # the reader of the pipe has closed it
            raise typer.Exit(0) from None

    return wrapper


class _CommandGroup(CommandGroup):
    sources = COMMANDS
    examples = EXAMPLES
    wrapped = staticmethod(_with_clean_exit)


app = typer.Typer(
    name="roseinfer",
    cls=_CommandGroup,
    help="An LLM inference engine that explains its own speed.",
    pretty_exceptions_enable=False,
    context_settings=CONTEXT_SETTINGS,
)

_FAILED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Error numbers of a write to a full or failing disk, quota or file."""

_TYPER_INTERRUPTED = 130
"""Typer's exit code for KeyboardInterrupt, whichever signal raised it, while a command is imported."""

# Typer uses click, since 0.26 a copy of its own. Typer exports BadParameter of either, whose base is the base of all
# wrong calls.
_CallError: type[Exception] = typer.BadParameter.__mro__[1]


def _version(value: bool) -> None:
    if value:
        from roseinfer.cli.version_report import print_version

        print_version()
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the versions of roseinfer, Python and torch, the device, and the state of its kernels.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(exit_codes.WRONG_CALL)


def main() -> None:
    """Run the command line and exit. Every failure is one line on stderr and an exit code."""
    if sys.stdout is None:  # the parent process closed it
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open while the process runs
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - open while the process runs
    prepare_torch()
    replace_missing_characters()
    end_like_ctrl_c()
    code = run()
    try:
        sys.stdout.flush()
    except OSError:  # reported by run()
        _drop_stdout()
    if code == interrupted_code():
        _end_now(code)
    if "torch" not in sys.modules:
        gc.freeze()  # the interpreter would look for garbage in all objects before it ends
    sys.exit(code)


def run() -> int:
    """Run the command line and return its exit code, 0 or one of `exit_codes`."""
    try:
        # Named here, so that `python -m roseinfer` prints what the command `roseinfer` prints.
        code = app(prog_name="roseinfer", standalone_mode=False)
        if not isinstance(code, int):
            return 0
        return interrupted_code() if code == _TYPER_INTERRUPTED else code
    except _CallError as error:
        return _wrong_call(error)
    except RoseinferError as error:
        if console.settings.debug:
            console.stderr.print_exception()
        console.print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.print_error(interrupted_word())
        return interrupted_code()
    except (OSError, MemoryError, RuntimeError) as error:
        message = _failure(error)
        if message is None:
            raise
        if console.settings.debug:
            console.stderr.print_exception()
        console.print_error(message)
        return exit_codes.RUN_FAILED


def _failure(error: Exception) -> str | None:
    """Return the line about a machine that has no room left; None for any other error, which is a bug of ours."""
    if isinstance(error, OSError):
        return f"cannot write: {error.strerror}" if error.errno in _FAILED_WRITES else None
    if lacks_memory(error):
        return (
            "no memory is left: choose a smaller model or --dtype, lower --kv-cache-memory or --max-batch-size, "
            "or end other programs"
        )
    return None


def _end_now(code: int) -> None:
    """End an interrupted process without taking the interpreter down.

    Libraries whose import was interrupted may abort then. Python ends itself by SIGINT, not with `code`, if a library
    in C has seen the KeyboardInterrupt before us.
    """
    atexit._run_exitfuncs()
    with suppress(AttributeError, OSError, ValueError):  # None, full or closed
        sys.stderr.flush()
    os._exit(code)


def _drop_stdout() -> None:
    """Discard the output that could not be written, so that the flush at exit does not fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrong_call(error: Any) -> int:
    """Print Typer's error about wrong arguments as one line, not in a box; return the exit code."""
    where = error.ctx.command_path if error.ctx else "roseinfer"
    if message := error.format_message():
        console.print_error(f"{message.rstrip('.')} (see {where} --help)")
    return exit_codes.WRONG_CALL
