"""torch.profiler around a loop of steps: so many to wait, to warm up, and to record, into one trace file."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
import torch.autograd.profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile, schedule

from roseinfer.config import ProfileConfig
from roseinfer.errors import RoseinferError
from roseinfer.profiling.quiet import without_usdt_lines


class Recorder:
    """One cycle of the profiler's schedule; call `step` after each step of the loop inside it.

    The trace is written to `trace_path`, uncompressed: a caller compresses it outside the loop.
    """

    def __init__(self, config: ProfileConfig, device: torch.device, trace_path: Path) -> None:
        self._before = config.wait + config.warmup
        self._total = self._before + config.active
        self._device = device
        self._trace_path = trace_path
        self._num_steps = 0
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with warnings.catch_warnings():
            # torch warns of a schedule without warm-up, and of cycles that later ones replace: neither is a surprise.
            warnings.simplefilter("ignore", UserWarning)
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=config.wait, warmup=config.warmup, active=config.active, repeat=1),
                on_trace_ready=self._export,
            )

    def __enter__(self) -> "Recorder":
        if autograd_profiler._is_profiler_enabled:
            raise RoseinferError("another torch profiler is recording in this process: stop it first")
        self._synchronize_before_active()
        self._transition(self._profiler.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transition(self._profiler.stop)

    @property
    def is_active(self) -> bool:
        """Whether the step that comes next, or runs now, is recorded."""
        return self._before <= self._num_steps < self._total

    @property
    def is_done(self) -> bool:
        return self._num_steps >= self._total

    def step(self) -> None:
        """One step of the loop is over."""
        self._num_steps += 1
        self._synchronize_before_active()
        self._transition(self._profiler.step)

    def _synchronize_before_active(self) -> None:
        """The profiler does not wait for the warm-up's kernels, which would then run inside the first active step."""
        if self._num_steps == self._before and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @staticmethod
    def _transition(call: Callable[[], None]) -> None:
        with without_usdt_lines(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            call()

    def _export(self, profiler: profile) -> None:
        profiler.export_chrome_trace(str(self._trace_path))
