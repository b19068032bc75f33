"""Run the command line as a user does, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from tempfile import TemporaryFile

from fork_server import ForkServer

# One thread: tiny models gain nothing from a second one, and lose much if other work runs during the tests.
# No compiler: with one, the first engine prints a note about the kernels that it could compile.
ENVIRONMENT = {
    **os.environ,
    "PYTHONIOENCODING": "utf-8",
    "COLUMNS": "100",
    "OMP_NUM_THREADS": "1",
    "CXX": "no-compiler",
}


# Variables that libraries read when they are imported. A command with other values gets a new interpreter.
_READ_BY_LIBRARIES = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "ATEN_", "KINETO_", "TRITON_", "LD_", "CUDA_")


def roseinfer(
    *arguments: object, stdin: str | bytes = "", timeout_s: float = 240, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run `roseinfer` with these arguments and return its exit code, stdout and stderr without progress."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    if _library_variables(environment) == _library_variables(ENVIRONMENT):
        done = _in_a_fork(list(map(str, arguments)), given, timeout_s, environment)
    else:
        done = subprocess.run(
            command(*arguments), input=given, capture_output=True, timeout=timeout_s, env=environment, check=False
        )
    stderr = without_progress(done.stderr.decode())
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), stderr)


def _in_a_fork(
    arguments: list[str], stdin: bytes, timeout_s: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run `roseinfer` without the seconds that importing torch takes: see fork_server.py."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        code = _server().run(arguments, (given, out, err), environment, timeout_s)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@cache
def _server() -> ForkServer:
    return ForkServer(ENVIRONMENT)


def _library_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_BY_LIBRARIES)}


def without_progress(stderr: str) -> str:
    """Return stderr without the lines that depend on how fast the machine is, and on what else it does."""
    return "".join(
        line
        for line in stderr.splitlines(keepends=True)
        if not line.startswith("[progress] ") and "the machine was not this run's alone" not in line
    )


def succeeds(*arguments: object, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Run `roseinfer` and check that it succeeds."""
    done = roseinfer(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "roseinfer", *map(str, arguments)]
