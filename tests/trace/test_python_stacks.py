"""Python stacks: folded files, the flame graph of the page, and advice for traces that have stacks already."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from traces import MATMUL, event, kernel, launch, write

from roseinfer.cli import console
from roseinfer.cli.app import run
from roseinfer.cli.rendering.html_page import to_html
from roseinfer.trace import summarize_trace
from roseinfer.trace.pipeline import folded_stacks, read_columns

Events = list[dict[str, Any]]


def frame(name: str, ts: float, dur: float) -> dict[str, Any]:
    return event("python_function", name, ts, dur)


def training() -> Events:
    """Return a step in which `load` runs on the host, and `forward` of a module launches a kernel of 700 us."""
    return [
        frame("train.py(1): main", 0, 3000),
        frame("data.py(9): read", 10, 900),
        frame("nn.Module: Net_0", 1000, 400),
        frame("torch/nn/modules/module.py(1743): _call_impl", 1005, 390),
        frame("net.py(4): forward", 1010, 380),
        launch(1100, 5, 1),
        kernel(1200, 700, 1, "nvjet"),
        launch(2000, 5, 2),
        kernel(2100, 300, 2, "nvjet"),
    ]


def test_stacks_fold_to_lines_with_their_own_gpu_time(tmp_path: Path) -> None:
    trace, _ = read_columns(write(tmp_path / "t.json", training()))
    inner = "train.py(1): main;Net_0;torch/nn/modules/module.py(1743): _call_impl;net.py(4): forward"
    assert folded_stacks(trace) == ["train.py(1): main 300", f"{inner} 700"]


def test_stacks_of_a_cpu_run_fold_to_host_time(tmp_path: Path) -> None:
    events = [one for one in training() if one["cat"] == "python_function"]
    trace, _ = read_columns(write(tmp_path / "t.json", [*events, event("cpu_op", "aten::mm", 1020, 10)]))
    found = dict(line.rsplit(" ", 1) for line in folded_stacks(trace))
    assert found["train.py(1): main"] == str(3000 - 900 - 400)
    assert found["train.py(1): main;data.py(9): read"] == "900"
    assert sum(map(int, found.values())) == 3000


@st.composite
def nested(draw: st.DrawFn) -> Events:
    """Return nested functions of at least 50 us, some of which launch kernels."""
    events: Events = []

    def call(start: int, end: int, depth: int) -> None:
        at = start
        while at + 60 < end and depth < 4:
            size = draw(st.integers(50, 300))
            size = min(size, end - at - 2)
            if draw(st.booleans()):
                events.append(frame(draw(st.sampled_from(["a.py(1): f", "a.py(2): g", "b.py(3): h"])), at, size))
                call(at + 1, at + size - 1, depth + 1)
            else:
                number = len(events) + 1
                events.extend([launch(at, 1, number), kernel(5000 + 100 * number, draw(st.integers(1, 90)), number)])
            at += size

    call(0, 1500, 0)
    return [*events, launch(4000, 1, 9999), kernel(4500, 7, 9999)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(events=nested())
def test_folded_stacks_agree_with_a_slow_count(tmp_path: Path, events: Events) -> None:
    slow: defaultdict[str, int] = defaultdict(int)
    calls = {one["args"]["correlation"]: one["ts"] for one in events if one["cat"] == "cuda_runtime"}
    for one in events:
        if one["cat"] == "kernel":
            at = calls[one["args"]["correlation"]]
            open_then = [
                each
                for each in events
                if each["cat"] == "python_function" and each["ts"] <= at < each["ts"] + each["dur"]
            ]
            open_then.sort(key=lambda each: (each["ts"], -each["dur"]))
            slow[";".join(each["name"] for each in open_then)] += one["dur"]
    trace, _ = read_columns(write(tmp_path / "t.json", events))
    expected = sorted(f"{stack} {us}" for stack, us in slow.items() if stack)
    assert folded_stacks(trace) == expected


def test_the_page_has_a_flame_graph_of_gpu_time(tmp_path: Path) -> None:
    page = to_html(summarize_trace(write(tmp_path / "t.json", training())))
    assert "Flame graph of GPU time by Python stack" in page
    assert "<title>Net_0: 700.0 us</title>" in page
    assert "_call_impl: 700" not in page
    assert "Flame graph" not in to_html(summarize_trace(MATMUL))


def test_the_flame_graph_begins_where_functions_part(tmp_path: Path) -> None:
    events = [frame("a.py(1): main", 0, 900), frame("a.py(2): train", 10, 800)]
    for number, name in ((1, "a.py(3): forward"), (2, "a.py(4): backward")):
        events += [frame(name, 200 * number, 100), launch(200 * number + 10, 5, number)]
        events.append(kernel(200 * number + 50, 100, number))
    page = to_html(summarize_trace(write(tmp_path / "t.json", events)))
    assert "<title>a.py(1): main: " not in page
    for shown in ("a.py(2): train: 200.0 us", "a.py(3): forward: 100.0 us", "a.py(4): backward: 100.0 us"):
        assert f"<title>{shown}</title>" in page


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["roseinfer", "summarize", *map(str, args)])
    monkeypatch.setattr(console, "stdout", Console(width=100))
    return run(), capfd.readouterr().err


def test_the_command_writes_folded_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, out = write(tmp_path / "t.json", training()), tmp_path / "stacks.txt"
    assert command(monkeypatch, capfd, trace, "--folded", out)[0] == 0
    assert out.read_text().splitlines() == folded_stacks(read_columns(trace)[0])
    code, err = command(monkeypatch, capfd, MATMUL, "--folded", tmp_path / "none.txt")
    assert (code, (tmp_path / "none.txt").exists()) == (1, False)
    assert "has no Python stacks; record with with_stack=True" in err


def test_stacks_are_not_asked_for_where_the_trace_has_them(tmp_path: Path) -> None:
    operators = [event("cpu_op", "aten::mm", 3000 * index, 100) for index in range(4)]
    summary = summarize_trace(write(tmp_path / "t.json", operators))
    assert any("with_stack=True" in line for line in summary.verdict.advice)
    functions = [frame("<string>(1): <module>", 0, 10_000)]
    summary = summarize_trace(write(tmp_path / "t.json", operators + functions))
    assert not any("with_stack=True" in line for line in summary.verdict.advice)
