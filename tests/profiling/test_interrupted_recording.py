"""A signal at any moment leaves a recording that is whole, and a profiler that is stopped."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from recorded_steps import step_names
from torch.autograd import profiler as autograd_profiler
from torch.profiler import profiler as torch_profiler

from roseinfer.config import ProfileConfig
from roseinfer.profiling import run_dir
from roseinfer.profiling.held_signals import HeldSignals
from roseinfer.profiling.session import profile_session

TORCH_FILES = (autograd_profiler.__file__, torch_profiler.__file__)


def record(folder: Path) -> None:
    """Record four steps in two cycles."""
    config = ProfileConfig(wait=1, warmup=1, active=2, repeat=2, profile_dir=str(folder))
    with profile_session(config, device="cpu") as session:
        while not session.is_done:
            torch.ones(4).sum()
            session.step()


class LineTracer:
    """Calls a function at one of the lines that run in some files, and counts these lines."""

    def __init__(self, files: Collection[str], at: int = -1, action: Callable[[], None] = lambda: None) -> None:
        self.lines = 0
        self._files, self._at, self._action = files, at, action

    def __enter__(self) -> "LineTracer":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line":
            self.lines += 1
            if self.lines - 1 == self._at:
                self._action()
        return self._trace


@pytest.mark.parametrize("quarter", range(4))
def test_ctrl_c_inside_torchs_profiler_loses_no_recorded_step(tmp_path: Path, quarter: int) -> None:
    with LineTracer(TORCH_FILES) as tracer:
        record(tmp_path / "whole")
    for at in range(quarter * tracer.lines // 4, (quarter + 1) * tracer.lines // 4, 13):
        folder = tmp_path / str(at)
        with (
            pytest.raises(KeyboardInterrupt),
            LineTracer(TORCH_FILES, at, lambda: signal.raise_signal(signal.SIGINT)),
        ):
            record(folder)
        assert not autograd_profiler._is_profiler_enabled
        for recorded in folder.glob("2*"):
            manifest = json.loads((recorded / "manifest.json").read_text())
            for cycle in manifest["cycles"]:
                assert cycle["steps"] > 0
                assert len(step_names(recorded / cycle["trace"])) - cycle["steps"] in (0, 1)  # 1: the step it cut off
    record(tmp_path / "after")


def test_ctrl_c_while_a_run_is_created_or_written_leaves_it_whole_or_not_at_all(tmp_path: Path) -> None:
    files = (run_dir.__file__,)
    with LineTracer(files) as tracer:
        record(tmp_path / "whole")
    for at in range(0, tracer.lines, 5):
        folder = tmp_path / str(at)
        with (
            pytest.raises(KeyboardInterrupt),
            LineTracer(files, at, lambda: signal.raise_signal(signal.SIGINT)),
        ):
            record(folder)
        for left in folder.glob("2*"):
            assert (left / "summary.json").exists(), at
            assert (folder / "latest").resolve() == left


def test_a_held_signal_is_handled_when_the_outermost_body_ends() -> None:
    held = HeldSignals()
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def interrupt_inside() -> None:
        with held:
            with held:
                signal.raise_signal(signal.SIGINT)
                seen.append("inner")
            seen.append("outer")

    held.open()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt_inside()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        held.close()
    assert seen == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) == before


def test_signals_stay_with_the_main_thread() -> None:
    held = HeldSignals()
    thread = threading.Thread(target=held.open)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    held.close()
