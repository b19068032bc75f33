"""The HTML report: context, budget picture, names that may break, coloured changes."""

import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from budgets import HOST_BOUND, budget, parts
from traces import TUTORIAL, event, kernel, launch, write

from roseinfer.cli.rendering.budget_bars import budget_bars, step_columns
from roseinfer.cli.rendering.html_elements import named, prose
from roseinfer.cli.rendering.html_page import to_html
from roseinfer.cli.rendering.step_drawing import draw_step
from roseinfer.cli.rendering.table_sheet import milliseconds
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.summary.budget_structs import StepBudget


@pytest.fixture(scope="module")
def summary() -> Summary:
    return msgspec.structs.replace(summarize_trace(TUTORIAL), budget=budget(2))


def test_the_context_and_the_command_are_on_the_page(summary: Summary) -> None:
    page = to_html(summary, command="roseinfer summarize 'a b.json' --html x.html")
    context = page[page.index("<body") : page.index("<section")].replace("\N{NO-BREAK SPACE}", " ")
    assert "NVIDIA H200 · CUDA 13.0 · recorded 2026-11-22 20:06 UTC · 42,345 events" in context
    assert "roseinfer summarize" in page[page.index("<footer>") :]


def test_the_first_picture_is_the_budget(summary: Summary) -> None:
    page = to_html(summary)
    bars = re.findall(r'<div class="stack" role="img" aria-label="([^":]*)', page)
    assert bars == ["decode", "prefill", "whole recording", "GPU 0 NVIDIA H200", "GPU 1"]
    assert page.index('class="stack"') < page.index("<svg")
    shares = re.findall(r'style="flex:([\d.]+) 0 0"', page[: page.index("</div>", page.index('class="stack"'))])
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.01)


def test_the_legend_names_every_part_of_the_bars(summary: Summary) -> None:
    page = to_html(summary)
    drawn = set(re.findall(r'<i class="(\w+)" style="flex', page))
    legend = re.search(r'<p class="key">(.*)</p>', page)
    assert legend
    assert set(re.findall(r'<i class="(\w+)">', legend.group(1))) == drawn


def test_each_step_is_a_column_as_high_as_it_is_long(summary: Summary) -> None:
    assert summary.budget
    steps = [
        StepBudget(step=one, phase="decode", device=0, rank=0, **parts(tuple((one + 1) * ms for ms in HOST_BOUND)))
        for one in range(4)
    ]
    made = msgspec.structs.replace(summary.budget, steps=steps)
    columns = step_columns(made)
    assert [column.height for column in columns] == [25, 50, 75, 100]
    assert columns[1].title == f"step 1, decode: {milliseconds(2 * sum(HOST_BOUND))} ms"
    assert sum(part.percent for part in columns[0].parts) == pytest.approx(100, abs=0.01)
    assert to_html(msgspec.structs.replace(summary, budget=made)).count('title="step ') == 4
    assert step_columns(msgspec.structs.replace(made, steps=steps[:2])) == []
    assert step_columns(msgspec.structs.replace(made, steps=steps * 100)) == []


def test_a_trace_without_a_budget_has_no_bars(summary: Summary) -> None:
    assert 'class="stack"' not in to_html(msgspec.structs.replace(summary, budget=None))


def test_identifiers_may_break_between_their_parts() -> None:
    assert named("roseinfer.kv.append_token") == "roseinfer.<wbr>kv.<wbr>append_<wbr>token"
    assert named("a::b<c>") == "a::<wbr>b&lt;<wbr>c&gt;"
    assert prose("see kv.append_token: 83.2 ms") == (
        'see <span class="id">kv.<wbr>append_<wbr>token:</span> 83.2\N{NO-BREAK SPACE}ms'
    )
    assert prose("2.65x of 1,035.5") == "2.65x of 1,035.5"
    assert named("DataLoader#_Iter.__next__") == "Data<wbr>Loader#_Iter.<wbr>__next__"
    assert prose("Iter.__next__ h200.json") == (
        '<span class="id">Iter.<wbr>__next__</span> <span class="id">h200.<wbr>json</span>'
    )
    assert prose("35.41 -> 32.93 ms") == "35.41 →\N{NO-BREAK SPACE}32.93\N{NO-BREAK SPACE}ms"


def test_devices_of_several_ranks_are_told_apart(summary: Summary) -> None:
    assert summary.budget
    devices = [msgspec.structs.replace(one, rank=one.id + 4, id=0) for one in summary.budget.devices]
    made = msgspec.structs.replace(summary.budget, devices=devices)
    named = [msgspec.structs.replace(one, rank=one.id + 4, id=0, name="H100") for one in summary.devices]
    titles = [bar.title.split(":")[0] for bar in budget_bars(made, named)]
    assert titles[-2:] == ["rank 4 GPU 0 H100", "rank 5 GPU 0"]
    assert [bar.title.split(":")[0] for bar in budget_bars(made, [])][-2:] == ["rank 4", "rank 5"]  # on the CPU


def test_everything_in_a_name_is_escaped() -> None:
    assert "<b>" not in named("<b>_<i>") + prose("<b>.<i>")


def test_changes_are_coloured_by_what_they_mean(summary: Summary, tmp_path: Path) -> None:
    def trace(name: str, slow_us: float) -> Summary:
        steps = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 1000 * one, 900) for one in range(4)]
        ops = [event("cpu_op", "aten::mm", 1000 * one + 5, slow_us) for one in range(4)]
        return summarize_trace(write(tmp_path / name, [*steps, *ops]))

    fast, slow = trace("fast.json", 100), trace("slow.json", 300)
    assert '<td class="change worse">+200.0</td>' in to_html(compare(slow, fast))
    assert '<td class="change better">-66.7</td>' in to_html(compare(fast, slow))


def test_the_timeline_has_the_events_of_the_step_and_none_overlaps_another_in_its_row(tmp_path: Path) -> None:
    times = [(20, 30, 7), (30, 30, 8), (50, 40, 7), (55, 1, 9), (60, 10, 8), (95, 5, 8)]  # start, duration, stream
    events = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 100)]
    for number, (start, duration, stream) in enumerate(times, 1):
        events += [launch(number, 0.5, number), kernel(start, duration, number, f"gemm{number}", stream=stream)]
    step = summarize_trace(write(tmp_path / "t.json", events)).typical_step
    assert step
    drawn = {one.name: (one.row, one.start_us, one.end_us) for one in step.busy[0].events}
    assert drawn == {
        "gemm1": (0, 20, 50),
        "gemm2": (1, 30, 60),
        "gemm3": (0, 50, 90),
        "gemm4": (2, 55, 56),
        "gemm5": (1, 60, 70),
        "gemm6": (0, 95, 100),
    }
    boxes = {box.name: box for box in draw_step(step).boxes if box.css == "event"}
    assert (boxes["gemm3"].x, boxes["gemm3"].width) == (500, 400)
    assert len({boxes[name].y for name in ("gemm1", "gemm2", "gemm4")}) == 3


def test_the_timeline_keeps_the_longest_of_many_events() -> None:
    step = summarize_trace(TUTORIAL).typical_step
    assert step
    events = step.busy[0].events
    assert len(events) == 300
    assert all(one.end_us <= other.start_us for one, other in pairwise(events) if one.row == other.row)
    assert max(one.end_us for one in events) <= step.end_us


def test_spans_are_indented_by_their_depth(summary: Summary) -> None:
    page = to_html(summary)
    assert re.search(r'<th scope="row" class="name" style="--depth:2" title="roseinfer.kv.append_token">', page)
