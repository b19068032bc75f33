"""Run the steps of a page as a reader does: commands in one shell, Python blocks in one program.

A step is one command of a `console` block, or a whole `python` block. The shell's folder, variables and activated
environment last from step to step, as the names of the Python program do.
"""

import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from code_blocks import ROOT, Block, Command

_PYTHON_WORKER = """
import contextlib, json, sys, traceback
names, replies = {"__name__": "__main__"}, sys.stdout
for line in sys.stdin:
    job = json.loads(line)
    with open(job["log"], "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            exec(compile(chr(10) * job["line"] + job["text"], job["page"], "exec"), names)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
    print(code, file=replies, flush=True)
"""


@dataclass(frozen=True)
class Step:
    """One command, or one Python block, of a page."""

    block: Block
    command: Command | None

    @property
    def line(self) -> int:
        """Number of its first line in the page, counted from 1."""
        return self.block.line + 1 if self.command is None else self.command.line

    @property
    def text(self) -> str:
        return self.block.text if self.command is None else self.command.text

    @property
    def expected_exit_code(self) -> int:
        return self.block.exit_code if self.command is None else self.command.exit_code

    @property
    def title(self) -> str:
        """Its first line, and how many more there are."""
        first, *more = self.text.strip().splitlines()
        return first + (f" (+{len(more)} lines)" if more else "")


@dataclass(frozen=True)
class Outcome:
    """Result of one step; no exit code if it was stopped at the time limit or could not start."""

    exit_code: int | None
    seconds: float
    stdout: str
    stderr: str

    def fault_of(self, step: Step) -> str | None:
        """Return what differs from the page, None if nothing does."""
        if self.exit_code != step.expected_exit_code:
            ended = "ended without an exit code" if self.exit_code is None else f"ended with exit code {self.exit_code}"
            return f"{ended} instead of {step.expected_exit_code}"
        shown = "" if step.command is None else step.command.output
        if "same output" in step.block.marks and not is_output(shown, self.stdout or self.stderr):
            return "printed something else than the page shows"
        return None


def steps_of(blocks: list[Block]) -> list[Step]:
    """Return the steps of blocks, in order."""
    return [step for block in blocks for step in _steps(block)]


def _steps(block: Block) -> list[Step]:
    if block.language == "python":
        return [Step(block, None)]
    return [Step(block, command) for command in block.commands]


def is_output(shown: str, printed: str) -> bool:
    """True if a page shows what was printed; a shown line `...` stands for any lines."""
    parts = [r"(?:.*\n)*" if line.strip() == "..." else re.escape(line.rstrip()) + r" *\n" for line in _lines(shown)]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines()


class _Worker:
    """A process that carries out one job after another and answers each with its exit code on a line."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], work: Path) -> None:
        self._stdout, self._stderr, self._script = work / "stdout", work / "stderr", work / "command.sh"
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _answer(self, job: str, timeout_s: float) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for file in (self._stdout, self._stderr):
            file.write_text("", encoding="utf-8")
        started_s = time.perf_counter()
        answer = ""
        with suppress(BrokenPipeError), selectors.DefaultSelector() as selector:
            self._process.stdin.write(f"{job}\n")
            self._process.stdin.flush()
            selector.register(self._process.stdout, selectors.EVENT_READ)
            answer = self._process.stdout.readline() if selector.select(timeout_s) else ""
        seconds = time.perf_counter() - started_s
        if not answer:
            self.close()
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in (self._stdout, self._stderr)]
        return Outcome(int(answer) if answer else None, seconds, *texts)

    def close(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class _Shell(_Worker):
    """A bash shell."""

    def run(self, step: Step, timeout_s: float) -> Outcome:
        self._script.write_text(f"{step.text}\n", encoding="utf-8")
        script, stdout, stderr = (shlex.quote(str(file)) for file in (self._script, self._stdout, self._stderr))
        return self._answer(f". {script} </dev/null >{stdout} 2>{stderr}; echo $?", timeout_s)


class _Program(_Worker):
    """A Python program that grows by a block at a time."""

    def run(self, step: Step, timeout_s: float) -> Outcome:
        page = str(step.block.page)
        job = {"log": str(self._stdout), "text": step.text, "page": page, "line": step.line - 1}
        return self._answer(json.dumps(job), timeout_s)


class BlockRunner:
    """Runs the steps of one page in a folder; a context manager that ends what the steps started."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, timeout_s: float = 3600.0) -> None:
        self._folder, self._environment, self._timeout_s = folder, environment, timeout_s
        self._stack = ExitStack()
        self._shell: _Shell | None = None
        self._program: _Program | None = None

    def __enter__(self) -> Self:
        self._work = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="roseinfer-page-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, step: Step) -> Outcome:
        """Run one step and wait for its end."""
        if step.command is not None:
            if self._shell is None:
                self._shell = _Shell(["bash", "--noprofile", "--norc"], self._folder, self._environment, self._work)
                self._stack.callback(self._shell.close)
            return self._shell.run(step, self._timeout_s)
        if self._program is None:
            python = shutil.which("python", path=self._environment["PATH"])
            if python is None:
                return Outcome(None, 0.0, "", "no `python` in PATH\n")
            command = [python, "-u", "-c", _PYTHON_WORKER]
            self._program = _Program(command, self._folder, self._environment, self._work)
            self._stack.callback(self._program.close)
        return self._program.run(step, self._timeout_s)


def plain_environment(cache: Path) -> dict[str, str]:
    """Return this process's environment without an activated venv, and with `cache` as roseinfer's cache folder."""
    unwanted = ("VIRTUAL_ENV", "PYTHONPATH", "COLUMNS")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    venv = os.environ.get("VIRTUAL_ENV")
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join(folder for folder in folders if venv is None or folder != f"{venv}/bin")
    # `profile --open` opens a browser.
    return environment | {"ROSEINFER_CACHE_DIR": str(cache), "BROWSER": "true"}


def activated(environment: Mapping[str, str], venv: Path) -> dict[str, str]:
    """Return the environment with a venv activated."""
    path = os.pathsep.join([str(venv / "bin"), environment["PATH"]])
    return {**environment, "VIRTUAL_ENV": str(venv), "PATH": path}


def with_this_python(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment with `python` and `roseinfer` of this Python and this checkout, as scripts in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in {"python": "", "roseinfer": " -m roseinfer"}.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n', encoding="utf-8")
        file.chmod(0o755)
    path = os.pathsep.join([str(folder), environment["PATH"]])
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": modules, "PATH": path}


def has_gpu() -> bool:
    """True if an NVIDIA driver lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU " in listed.stdout
