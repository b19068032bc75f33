"""Record a loop of steps with torch.profiler by a schedule, into one trace file per cycle."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
import torch
import torch.autograd.profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile

from roseinfer.config import ProfileConfig
from roseinfer.errors import RoseinferError
from roseinfer.profiling.held_signals import HeldSignals
from roseinfer.profiling.schedule import Action, Schedule
from roseinfer.profiling.stderr_filter import without_chatter


class RecordedCycle(msgspec.Struct, frozen=True, kw_only=True):
    """Trace file of one cycle."""

    cycle: int
    trace: str
    """File name inside the run directory."""
    steps: int
    partial: str | None
    """Reason why fewer steps than `active` were recorded; None for a complete cycle."""


class Recorder:
    """Context manager around a loop that calls `begin_step` before each step and `end_step` after.

    On exit, also by an exception, the steps recorded in an unfinished cycle are written and the cycle is marked
    partial. Signals wait while the recorder works: torch's profiler crashes the process if Ctrl-C stops it halfway.
    Traces are written uncompressed; the caller compresses them after the loop.
    """

    def __init__(
        self,
        config: ProfileConfig,
        device: torch.device,
        folder: Path,
        *,
        rank: int = 0,
        held_signals: HeldSignals | None = None,
    ) -> None:
        self.schedule = Schedule(config)
        self.cycles: list[RecordedCycle] = []
        self.num_steps = 0
        """Number of finished steps of the loop."""
        self._config = config
        self._device = device
        self.folder = folder
        """Folder of the traces."""
        self._rank = rank
        self._profiler: profile | None = None
        self._cycle = 0  # index of the cycle being recorded
        self._recorded = 0  # steps recorded in the cycle
        self._recording = False
        self._step_span: autograd_profiler.record_function | None = None
        self.held_signals = held_signals or HeldSignals()
        """Context in which no signal interrupts the main thread while the recorder is in use."""

    def __enter__(self) -> "Recorder":
        if autograd_profiler._is_profiler_enabled:
            raise RoseinferError("another torch profiler is recording in this process: stop it before profiling")
        self.held_signals.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self.held_signals:
                self._leave_step()
                if self._recording and self._recorded:
                    self._finish(_reason(error))
                else:
                    self._discard()
        finally:
            self.held_signals.close()

    @property
    def is_done(self) -> bool:
        """True if all cycles are recorded."""
        return self.schedule.is_done

    @property
    def is_recording(self) -> bool:
        """True if the current step is being recorded."""
        return self._recording

    @property
    def cycle(self) -> int:
        """Index of the current cycle, counted from 0."""
        return self._cycle

    def begin_step(self, matches: bool = True) -> None:
        """Start, continue or end recording before a step. `matches` is true if the step has the phase to record."""
        with self.held_signals:
            self._begin_step(matches)

    def _begin_step(self, matches: bool) -> None:
        action = self.schedule.upcoming(matches)
        if self._recording and (action is not Action.RECORD or self.schedule.cycle != self._cycle):
            self._finish("the phase to record ended before the window was full")
        if action is not Action.IDLE and self._profiler is None:
            self._prepare()
        if action is Action.RECORD:
            if not self._recording:
                self._start()
            self._step_span = autograd_profiler.record_function(f"ProfilerStep#{self.num_steps}")
            self._step_span.__enter__()  # type: ignore[no-untyped-call]

    def end_step(self) -> None:
        """Close the step's span; end the cycle if this was its last step."""
        with self.held_signals:
            self._leave_step()
            self.num_steps += 1
            self._recorded += self._recording
            if self.schedule.advance():
                self._finish(None)

    def _leave_step(self) -> None:
        if self._step_span is not None:
            self._step_span.__exit__(None, None, None)
            self._step_span = None

    def _prepare(self) -> None:
        config = self._config
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        profiler = profile(
            activities=activities,
            record_shapes=config.record_shapes,
            with_stack=config.with_stack,
            profile_memory=config.profile_memory,
            with_modules=config.with_modules,
        )
        _quietly(profiler.prepare_trace)
        self._profiler = profiler  # only now, since one that is not prepared cannot be stopped

    def _start(self) -> None:
        assert self._profiler is not None
        if self._device.type == "cuda":
            # Otherwise kernels launched earlier would still run during the first recorded step.
            torch.cuda.synchronize(self._device)
        self._cycle = self.schedule.cycle
        self._recorded = 0
        _quietly(self._profiler.start_trace)
        self._recording = True

    def _finish(self, partial: str | None) -> None:
        assert self._profiler is not None
        profiler, self._profiler = self._profiler, None
        self._recording = False
        _quietly(profiler.stop_trace)
        path = self.folder / f"rank{self._rank}-cycle{self._cycle}.pt.trace.json"
        _quietly(lambda: profiler.export_chrome_trace(str(path)))
        _check_whole(path)
        self.cycles.append(RecordedCycle(cycle=self._cycle, trace=path.name, steps=self._recorded, partial=partial))
        gc.collect()  # otherwise memory grows with every cycle

    def _discard(self) -> None:
        """Stop a profiler that has recorded no complete step, and write no trace."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        if not self._recording:
            _quietly(profiler.start_trace)
        self._recording = False
        _quietly(profiler.stop_trace)


def _quietly(call: Callable[[], None]) -> None:
    with without_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        call()


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "the loop ended before the window was full"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"the loop failed: {type(error).__name__}"


def _check_whole(path: Path) -> None:
    """Raise RoseinferError unless the trace ends with a brace: the C++ profiler does not report a full disk."""
    size = path.stat().st_size if path.exists() else 0
    if size:
        with path.open("rb") as file:
            file.seek(max(0, size - 16))
            if file.read().rstrip().endswith(b"}"):
                return
    raise RoseinferError(f"the trace {path} is incomplete: free some disk space, or record to another folder")
