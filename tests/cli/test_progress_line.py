"""Progress: a terminal shows one line that moves; a pipe gets a plain line after ten seconds, and then rarely."""

import io
import threading

import pytest
from command import ENVIRONMENT, roseinfer

from roseinfer.cli.generate.generation_progress import GenerationProgress
from roseinfer.cli.progress_line import ProgressLine


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal that knows which text is visible on its line."""

    encoding = "utf-8"

    @property
    def visible(self) -> str:
        line = self.getvalue().rpartition("\r")[2]
        return line.removesuffix("\x1b[K")


def test_a_terminal_shows_the_stage_at_once_and_clears_it_at_the_end() -> None:
    out, clock = Terminal(), Clock()
    with ProgressLine(out, is_terminal=True, width=80, now_s=clock).stages() as stage:
        progress = stage("Loading gpt2", "bytes")
        assert out.visible == "Loading gpt2"
        clock.now += 1
        progress(3 << 20, 12 << 20)
        assert out.visible == "Loading gpt2: ━━━━━─────────────── 3.0 of 12.0 MiB"
        clock.now += 3
        progress(6 << 20, 12 << 20)
        assert out.visible == "Loading gpt2: ━━━━━━━━━━────────── 6.0 of 12.0 MiB, 4 s left"
        stage("Warming up")
        assert out.visible == "Warming up"
    assert out.visible == ""
    assert "\n" not in out.getvalue()


def test_a_terminal_is_drawn_a_few_times_per_second_however_often_progress_is_reported() -> None:
    out, clock = Terminal(), Clock()
    with ProgressLine(out, is_terminal=True, width=80, now_s=clock).stages() as stage:
        progress = stage("Recording", "steps")
        for step in range(10_000):
            clock.now += 0.001
            progress(step, 10_000)
    assert 30 < out.getvalue().count("\r") < 50


@pytest.mark.parametrize("width", [10, 33, 60])
def test_a_line_never_fills_the_terminal(width: int) -> None:
    out, clock = Terminal(), Clock()
    with ProgressLine(out, is_terminal=True, width=width, now_s=clock).stages() as stage:
        progress = stage("Measuring a configuration with a rather long name, pass 3 of 4")
        clock.now += 60
        progress(1, 4)
        assert 0 < len(out.visible) < width


def test_a_pipe_gets_plain_lines_after_ten_seconds_and_few_of_them() -> None:
    out, clock = io.StringIO(), Clock()
    with ProgressLine(out, is_terminal=False, width=80, now_s=clock).stages() as stage:
        progress = stage("Recording", "steps")
        for step in range(3600):
            progress(step, 3600)
            assert out.getvalue() == "" or clock.now >= 110
            clock.now += 1
    lines = out.getvalue().splitlines()
    assert lines[0] == "[progress] Recording: 10 of 3,600 steps"
    assert 50 < len(lines) < 75  # one per minute in the long run
    assert lines[30].endswith(" min left")
    assert all(line.startswith("[progress] Recording: ") for line in lines)


def test_ten_seconds_count_from_the_first_stage() -> None:
    out, clock = io.StringIO(), Clock()
    with ProgressLine(out, is_terminal=False, width=80, now_s=clock).stages() as stage:
        for number in range(4):
            progress = stage(f"pass {number}")
            clock.now += 4
            progress(1, 2)
    assert out.getvalue() == "[progress] pass 2: 50 %, 4 s left\n"


def test_work_that_reports_nothing_shows_the_time_that_passes() -> None:
    shown = threading.Event()

    class Watched(Terminal):
        def write(self, text: str) -> int:
            if "compiling, 7 s" in text:
                shown.set()
            return super().write(text)

    clock = Clock()
    with ProgressLine(Watched(), is_terminal=True, width=80, now_s=clock).stages() as stage:
        stage("compiling", ticks=True)
        clock.now += 7
        assert shown.wait(30)
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_closed_stderr_is_no_failure() -> None:
    out, clock = Terminal(), Clock()
    with ProgressLine(out, is_terminal=True, width=80, now_s=clock).stages() as stage:
        out.close()
        clock.now += 1
        stage("Loading")(1, 2)


def test_quiet_commands_and_short_ones_in_a_pipe_print_no_progress(tiny_llama: object) -> None:
    call = ["generate", "hi", "--model", tiny_llama, "--max-new-tokens", "2", "--json"]
    assert "\r" not in roseinfer(*call).stderr
    assert roseinfer(*call, "--quiet", environment={**ENVIRONMENT, "TERM": "xterm"}).stderr == ""


class Line:
    """A progress line that remembers what it was told."""

    what = ""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int]] = []

    def __call__(self, done: int, whole: int) -> None:
        self.shown.append((self.what, done, whole))


@pytest.mark.parametrize("total", [None, 5])
def test_generation_tells_of_each_token_and_answer(total: int | None) -> None:
    line = Line()
    progress = GenerationProgress(line, total, 2)  # type: ignore[arg-type]
    progress.add_token(None, None)  # type: ignore[arg-type]
    progress.add_answer()
    if total is None:
        assert line.shown == [("Generating, 1 tokens, 2 requests", 0, 0), ("Generating, 1 tokens, 3 requests", 0, 0)]
    else:
        assert line.shown == [("Generating, 1 tokens", 2, 5), ("Generating, 1 tokens", 3, 5)]


def test_generation_that_continues_no_file_begins_at_zero() -> None:
    line = Line()
    GenerationProgress(line, 5).add_answer()  # type: ignore[arg-type]
    assert line.shown == [("Generating, 0 tokens", 1, 5)]
