"""Compile the CPU kernels, cpp/native.cpp, with the machine's own C++ compiler.

The library's file name is a hash of its source, the compiler flags and the processor. Each combination is therefore
compiled once, and the file stays in the user's cache folder.
"""

import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from roseinfer.cache_folder import UntrustedCacheError, cache_folder, make_cache_folder, write_cached
from roseinfer.errors import UsageError

DTYPE_NAMES = ("float32", "bfloat16")
"""Element types of the kernels. The compiler runs once per type, in parallel."""

_SOURCES = Path(__file__).with_name("cpp")
_COMPILERS = ("c++", "g++")
# GCC's OpenMP resolves to the runtime that torch has already loaded, so both share one pool of threads.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
_LIBRARY = "library.so"
_FORMAT = b"digest at the end"
"""Form of the cached file. Libraries of versions without a digest have other names, and are not read."""


def library_path() -> Path:
    """Return the path of the library for this source, these flags and this processor, compiled or not."""
    parts = [path.read_bytes() for path in sorted(_SOURCES.iterdir())]
    parts += [" ".join(_FLAGS).encode(), _processor(), _FORMAT]
    return cache_folder() / f"native-{hashlib.blake2b(b'|'.join(parts), digest_size=8).hexdigest()}.so"


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX if set, else the first of the usual names that is installed.

    Raises UsageError if there is none.
    """
    if own := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(own[0]) is None:
            raise UsageError(f"--compile: CXX names {own[0]}, which is not installed: set CXX to a C++ compiler")
        return own
    usual = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if usual is None:
        raise UsageError("--compile needs a C++ compiler, and none is installed: install g++, or set CXX to another")
    return [usual]


def compile_library(path: Path) -> None:
    """Compile the kernels to `path`.

    Raises UsageError if there is no compiler, if the compiler fails, or if other users may write to the cache folder.

    The compiler writes to a temporary folder; the finished library replaces `path`. If two processes compile at the
    same time, both find a complete file.
    """
    compiler = find_compiler()
    try:
        make_cache_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            complaint = _compile_in([*compiler, *_FLAGS], Path(folder))
            if complaint is None:
                write_cached(path, (Path(folder) / _LIBRARY).read_bytes())
                return
    except UntrustedCacheError as error:
        raise UsageError(f"--compile: {error}") from None
    except OSError as error:
        raise UsageError(
            f"--compile cannot write to {path.parent}: {error.strerror}: set ROSEINFER_CACHE_DIR to another folder"
        ) from None
    raise UsageError(f"--compile: {compiler[0]} failed ({complaint}): set CXX to another compiler, or omit --compile")


def _compile_in(compiler: list[str], folder: Path) -> str | None:
    """Compile one object file per element type, in parallel, then link them; return the first error message if any."""
    source = str(_SOURCES / "native.cpp")
    objects = {name: str(folder / f"{name}.o") for name in DTYPE_NAMES}
    commands = [[*compiler, "-c", f"-D{name.upper()}", source, "-o", to] for name, to in objects.items()]
    for parallel in (commands, [[*compiler, "-shared", *objects.values(), "-o", str(folder / _LIBRARY)]]):
        try:
            messages = _run_together(parallel, folder)
        except OSError as error:
            return f"cannot start it: {error.strerror}"
        failed = next((lines for lines in messages if lines is not None), None)
        if failed is not None:
            return next((line for line in failed if "error" in line), failed[0] if failed else "without a message")
    return None


def _run_together(commands: list[list[str]], folder: Path) -> list[list[str] | None]:
    """Run commands in parallel; return the lines that each one wrote to stderr, or None for one that succeeded.

    An exception, such as that of Ctrl-C, ends the commands first. Their temporary files are in `folder`.
    """
    runs: list[subprocess.Popen[str]] = []
    try:
        runs.extend(_start(command, folder) for command in commands)
        messages = [run.communicate()[1].strip().splitlines() for run in runs]  # waits for all of them
    except BaseException:
        for run in runs:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        raise
    return [lines if run.returncode else None for run, lines in zip(runs, messages, strict=True)]


def _start(command: list[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        process_group=0,  # a compiler starts other programs, and all of them must end with it
    )


def _processor() -> bytes:
    """Return the processor's name and features, which `-march=native` depends on.

    Machines with different processors may share one home folder, and with it one cache folder.
    """
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n\n", 1)[0].split(b"\n")
    except OSError:
        return platform.processor().encode()
    return b"\n".join(line for line in lines if line.startswith((b"model name", b"flags", b"Features", b"CPU part")))
