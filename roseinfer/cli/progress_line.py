"""Progress on stderr: one line that is drawn over itself on a terminal, and a plain line now and then elsewhere.

Rich's progress bars draw from a thread, which takes time from the steps that `bench` measures. Here the measuring
thread draws, a few times per second and in some 20 us. A thread runs only for work that nothing measures.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from roseinfer.progress import StageCallback

_REDRAW_S = 0.25
_FIRST_LINE_S = 10.0
"""Time after which work that is not shown on a terminal is reported, in plain lines this far apart."""
_MAX_LINE_INTERVAL_S = 60.0
_BAR_WIDTH = 20
_ETA_FROM_S, _ETA_FROM_SHARE = 2.0, 0.05
"""Time and share of the work after which the time left is estimated."""
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Progress:
    """Progress of one stage of work. Calling it with (done, total) reports progress; both are in one unit.

    A unit of "bytes" is shown as sizes, an empty unit as a percentage only.
    """

    def __init__(self, line: "ProgressLine", what: str, unit: str) -> None:
        self.what = what
        """Name of the stage, such as "Loading gpt2". May be changed between two calls."""
        self.unit = unit
        self._line = line
        self._started_s = line.now_s()
        self._counts = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        self._counts = (done, total)
        self._line.draw_if_due(self)

    def text(self, now_s: float, bar: Callable[[float], str] | None) -> str:
        """Return the stage, how much of it is done, and the time left; `bar` draws a share from 0 to 1."""
        done, total = self._counts
        elapsed_s = now_s - self._started_s
        if total <= 0:
            return f"{self.what}, {elapsed_s:.0f} s" if elapsed_s >= _ETA_FROM_S else self.what
        share = min(done / total, 1.0)
        parts = [f"{self.what}:"] + ([bar(share)] if bar is not None else [])
        parts.append(f"{share * 100:.0f} %" if not self.unit else _counted(done, total, self.unit))
        left = ""
        if elapsed_s >= _ETA_FROM_S and share >= _ETA_FROM_SHARE:
            left_s = elapsed_s * (1 - share) / share
            left = f", {_duration(left_s)} left" if left_s >= 1 else ""
        return " ".join(parts) + left


class ProgressLine:
    """The progress of one command on a stream; at most one stage is shown at a time."""

    def __init__(
        self, stream: TextIO, *, is_terminal: bool, width: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.now_s = now_s
        self._stream = stream
        self._is_terminal = is_terminal
        self._width = width
        self._is_drawn = False
        self._lock = threading.Lock()
        self._started_s: float | None = None  # of the first stage
        self._due_s = 0.0

    @contextmanager
    def stages(self) -> Iterator["Stages"]:
        """Yield the function that starts a stage of work. The line is removed at the end of the context."""
        stages = Stages(self)
        try:
            yield stages
        finally:
            stages.end()

    def begin(self, progress: Progress) -> None:
        """Show a new stage at once on a terminal, and elsewhere when a line is due."""
        now_s = self.now_s()
        if self._started_s is None:
            self._started_s = now_s
            self._due_s = 0.0 if self._is_terminal else now_s + _FIRST_LINE_S
        if self._is_terminal:
            self._draw(progress, now_s)

    def draw_if_due(self, progress: Progress) -> None:
        """Draw the stage, unless it was drawn a moment ago."""
        now_s = self.now_s()
        if now_s >= self._due_s:
            self._draw(progress, now_s)

    def clear(self) -> None:
        """Remove the line from the terminal, so that other output can be written."""
        with self._lock:
            if self._is_drawn:
                self._write("\r\x1b[K")
                self._is_drawn = False
                self._due_s = 0.0

    def _draw(self, progress: Progress, now_s: float) -> None:
        with self._lock:
            if self._is_terminal:
                text = progress.text(now_s, self._bar)
                self._write(f"\r{text[: max(self._width - 1, 1)]}\x1b[K")
                self._is_drawn = True
                self._due_s = now_s + _REDRAW_S
            else:
                self._write(f"[progress] {progress.text(now_s, None)}\n")
                elapsed_s = now_s - (self._started_s or now_s)
                self._due_s = now_s + min(max(elapsed_s / 4, _FIRST_LINE_S), _MAX_LINE_INTERVAL_S)

    def _bar(self, share: float) -> str:
        full = int(share * _BAR_WIDTH)
        done, left = ("━", "─") if "utf" in (self._stream.encoding or "").lower() else ("#", "-")
        return done * full + left * (_BAR_WIDTH - full)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # stderr is closed; progress is not worth a failure
            self._is_terminal = False
            self._due_s = float("inf")


class Stages:
    """The stages of some work, one after the other."""

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._ticking: tuple[threading.Event, threading.Thread] | None = None

    def __call__(self, what: str, unit: str = "", *, ticks: bool = False) -> Progress:
        """End the stage before, show the next one, and return the callback of its progress.

        With `ticks`, a thread shows the time that passes: for work that reports no progress and that nothing measures.
        """
        self.end()
        progress = Progress(self._line, what, unit)
        self._line.begin(progress)
        if ticks:
            ended = threading.Event()
            thread = threading.Thread(target=self._tick, args=(progress, ended), name="progress", daemon=True)
            self._ticking = ended, thread
            thread.start()
        return progress

    def named(self, prefix: str) -> StageCallback:
        """Return a callback for stages whose names are shown after `prefix`."""
        return lambda what, unit: self(f"{prefix}, {what}", unit)

    def end(self) -> None:
        """End the last stage and remove its line."""
        if self._ticking is not None:
            ended, thread = self._ticking
            self._ticking = None
            ended.set()
            thread.join()
        self._line.clear()

    def _tick(self, progress: Progress, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            self._line.draw_if_due(progress)


def _counted(done: int, total: int, unit: str) -> str:
    if unit != "bytes":
        return f"{done:,} of {total:,} {unit}"
    size, name = next((pair for pair in _UNITS if total >= pair[0]), (1, "bytes"))
    return f"{done / size:.1f} of {total / size:.1f} {name}" if size > 1 else f"{done} of {total} bytes"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
