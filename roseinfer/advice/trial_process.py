"""Engines that are tried, each in a fresh process, so that no setting leaves traces for the next one."""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Self, TypeVar

import msgspec

from roseinfer.advice.levers import Settings, applied
from roseinfer.advice.recorded_run import RecordedRun
from roseinfer.advice.trial_messages import SAMPLE, WARM_UP, Answer, Built, Failed, Sample, TrialTask, Warm
from roseinfer.advice.trial_search import OTHER_CONTENDERS
from roseinfer.errors import RoseinferError, UsageError

_Kind = TypeVar("_Kind", Built, Warm, Sample)

_MIN_SAMPLE_S = 0.2
_READ_BYTES = 1 << 16
_KV_SHARE = 0.3
"""Share of a GPU's memory that the KV caches of all engines on it get together."""


class TrialProcess:
    """An engine in a process of its own, over the workload of a recorded run. It starts at once, and builds meanwhile.

    Calls raise RoseinferError if the engine cannot run, and TimeoutError if an answer takes until `deadline()`.
    """

    def __init__(self, task: TrialTask, deadline_s: Callable[[], float]) -> None:
        self._deadline_s = deadline_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._received = b""
        self.seconds: list[dict[str, float]] = []
        """Time by phase of each sample."""
        command = [sys.executable, "-m", "roseinfer.advice.trial_worker"]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
            )
        except OSError as error:
            raise RoseinferError(f"the process of an engine cannot be started: {error}") from error
        with suppress(RoseinferError):  # a process that ended at once says so when it is asked to warm up
            self._ask(msgspec.json.encode(task) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Wait until the engine is built, and run a pass that is not measured."""
        self._answer(Built)
        self._ask(WARM_UP)
        self._answer(Warm)

    def sample(self) -> float:
        """Run a pass over the workload; return seconds per completion token."""
        self._ask(SAMPLE)
        sample = self._answer(Sample)
        self.seconds.append(sample.seconds)
        return sample.cost

    def close(self) -> None:
        """End the process."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.kill()  # nothing that it holds needs to be saved; ranks that it started end with it
        process.wait()
        self._stderr.close()

    def _ask(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
        except BrokenPipeError:
            raise RoseinferError(self._end()) from None

    def _answer(self, kind: type[_Kind]) -> _Kind:
        answer = msgspec.json.decode(self._line(), type=Answer)
        if isinstance(answer, Failed):
            raise UsageError(answer.message) if answer.exit_code == 2 else RoseinferError(answer.message)
        assert isinstance(answer, kind)
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._received:
            left_s = self._deadline_s() - time.monotonic()
            # An answer that comes after the deadline would be taken for that to the next question.
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                raise TimeoutError
            piece = os.read(descriptor, _READ_BYTES)
            if not piece:
                raise RoseinferError(self._end())
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _end(self) -> str:
        """Return why the process ended, from the last line that it wrote."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        return f"the process of an engine ended with code {code}" + (f": {lines[-1]}" if lines else "")


class TrialStarter:
    """Starts engines with some settings of a recorded run changed."""

    def __init__(self, run: RecordedRun, *, residents: int, deadline_s: Callable[[], float]) -> None:
        self._run, self._residents, self._deadline_s = run, residents, deadline_s
        self.originals: list[TrialProcess] = []
        """Processes that ran the run's own settings."""

    def __call__(self, settings: Sequence[Settings]) -> list[TrialProcess]:
        """Start one process per item; they build their engines at the same time."""
        with ExitStack() as stack:  # an error or Ctrl-C here ends those that started before
            started = [stack.enter_context(TrialProcess(self._task(each), self._deadline_s)) for each in settings]
            stack.pop_all()
        self.originals += [process for process, changes in zip(started, settings, strict=True) if not changes]
        return started

    def _task(self, changes: Settings) -> TrialTask:
        config = self._run.config
        return TrialTask(
            config=msgspec.structs.replace(config, engine=applied(config.engine, changes)),
            device=self._run.device,
            kv_share=_KV_SHARE / (self._residents + OTHER_CONTENDERS),
            min_sample_s=_MIN_SAMPLE_S,
        )

    def original_seconds(self) -> dict[str, float]:
        """Return the time of the original's samples by phase, in s."""
        total: defaultdict[str, float] = defaultdict(float)
        for sample in (sample for process in self.originals for sample in process.seconds):
            for phase, seconds in sample.items():
                total[phase] += seconds
        return dict(total)
