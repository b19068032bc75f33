"""Run the command line as a user does, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping

# One thread: tiny models gain nothing from a second one, and lose much if other work runs during the tests.
# No compiler: with one, the first engine prints a note about the kernels that it could compile.
ENVIRONMENT = {
    **os.environ,
    "PYTHONIOENCODING": "utf-8",
    "COLUMNS": "100",
    "OMP_NUM_THREADS": "1",
    "CXX": "no-compiler",
}


def roseinfer(
    *arguments: object, stdin: str | bytes = "", timeout_s: float = 240, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run `roseinfer` with these arguments and return its exit code, stdout and stderr without progress."""
    done = subprocess.run(
        command(*arguments),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    stderr = without_progress(done.stderr.decode())
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), stderr)


def without_progress(stderr: str) -> str:
    """Return stderr without the lines that report progress, which depend on how fast the machine is."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("[progress] "))


def succeeds(*arguments: object, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Run `roseinfer` and check that it succeeds."""
    done = roseinfer(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "roseinfer", *map(str, arguments)]
