"""Renderings fit their width, shorten names but keep them distinct, and show the figures of the summary."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from traces import MATMUL, TUTORIAL, event, write

from roseinfer.cli.rendering.html_page import to_html
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.sheets import all_sheets, op_sheet
from roseinfer.cli.rendering.terminal import ops_table, print_summary, timeline_strip
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.naming import short_name


@pytest.fixture(scope="module", params=[TUTORIAL, MATMUL], ids=["tutorial", "matmul"])
def summary(request: pytest.FixtureRequest) -> Summary:
    return summarize_trace(request.param)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_report_fits_the_terminal(summary: Summary, width: int) -> None:
    out = io.StringIO()
    print_summary(Console(width=width, file=out), summary)
    lines = out.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    assert " ".join(" ".join(lines).split()).startswith(f"Verdict {summary.verdict.headline[:40]}")


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_of_the_report_has_trailing_blanks(summary: Summary, width: int) -> None:
    out = io.StringIO()
    print_summary(Console(width=width, file=out), compare(summary, summary))
    assert [line for line in out.getvalue().splitlines() if line != line.rstrip()] == []


def test_continuation_lines_align_with_the_text_above(summary: Summary) -> None:
    out = io.StringIO()
    print_summary(Console(width=70, file=out), summary)
    lines = out.getvalue().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("  - "))
    end = lines.index("Advice")
    points = lines[first:end]
    assert len(points) > sum(line.startswith("  - ") for line in points)
    assert all(line.startswith(("  - ", "    ")) and line[4] != " " for line in points)


def test_the_roofline_names_the_unprofiled_pass_as_source_of_step_times(tmp_path: Path) -> None:
    spans = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 100 * one, 90) for one in range(3)]
    work = [{"index": 0, "phase": "decode", "batch": 1, "tokens": 1, "bytes": 1e6, "flops": 1e6}]
    manifest = {
        "schema_version": 1,
        "ceilings": {"copy_bytes_per_s": 1e11, "flops_per_s": 1e12},
        "baseline_step_ms": {"decode": 0.08},
        "steps": work,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    titles = [sheet.title for sheet in all_sheets(summarize_trace(write(tmp_path / "t.json", spans)), 5, "self")]
    assert "Roofline, step times from the unprofiled pass; 100 GB/s, 1 TFLOP/s measured" in titles


def test_no_figure_is_cut_off_at_80_columns(summary: Summary) -> None:
    out = io.StringIO()
    print_summary(Console(width=80, file=out), summary, 5)
    for sheet in all_sheets(summary, 5, "self"):
        for row in sheet.rows:
            for cell, (_, kind) in zip(row, sheet.columns, strict=True):
                assert kind == "name" or cell in out.getvalue()


def test_top_and_sort_choose_the_rows() -> None:
    tutorial = summarize_trace(TUTORIAL)
    out = io.StringIO()
    Console(width=100, file=out).print(ops_table(tutorial, 2, "calls"))
    _title, _head, _rule, *rows = out.getvalue().splitlines()
    assert len(rows) == 6  # per device: two rows, and one row for all others
    place = [name for name, _ in op_sheet(tutorial, 2, "calls").columns].index("Calls")
    calls = [int(re.split(r"  +", row.strip())[place].replace(",", "")) for row in rows]
    assert calls[0] >= calls[1]
    assert sum(calls[:3]) == 4953


def test_short_names_keep_the_function_and_its_template_argument() -> None:
    name = (
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
        "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda(float)#1}> >(int, float)"
    )
    assert short_name(name, 60) == "elementwise_kernel<…direct_copy_kernel_cuda…>"
    assert short_name("aten::mm", 20) == "aten::mm"
    assert short_name("roseinfer.decode_step_sessions.build_batched_past", 20) == "….build_batched_past"


@pytest.mark.parametrize("width", [10, 24, 40, 77])
def test_short_names_are_short(summary: Summary, width: int) -> None:
    for op in summary.top_ops:
        assert 0 < len(short_name(op.name, width)) <= width


def test_the_strip_shows_idle_and_busy() -> None:
    assert timeline_strip([0, 0, 1, 1], 4) == "  ██"
    assert timeline_strip([0, 0, 1, 1], 2) == " █"
    assert timeline_strip([0.01], 9) == "▁"


def test_the_page_shows_every_cell_of_every_sheet(summary: Summary) -> None:
    from html import unescape

    page = unescape(re.sub(r"<[^>]*>", "\n", to_html(summary).replace("<wbr>", "")))
    for sheet in all_sheets(summary, 20, "self"):
        for row in sheet.rows:
            for cell, (_, kind) in zip(row, sheet.columns, strict=True):
                shown = unescape(short_name(cell.strip(), 64)) if kind == "name" else cell
                assert shown in page


def test_the_page_is_self_contained(summary: Summary) -> None:
    page = to_html(compare(summary, summary))
    assert not re.search(r"(src|href)=|url\(|https?://|import[ (]|fetch\(|XMLHttpRequest|WebSocket", page)


def test_repeats_on_a_cpu_are_called_operators(tmp_path: Path) -> None:
    names = ["aten::mm", "aten::add", "aten::mul"] * 20
    ops = [event("cpu_op", name, 10 * index, 9) for index, name in enumerate(names)]
    cpu = summarize_trace(write(tmp_path / "t.json", [event("user_annotation", "ProfilerStep#1", 0, 999), *ops]))
    found = next(sheet for sheet in all_sheets(cpu, 5, "self") if sheet.title == "Repeated operators per step")
    assert found.rows[0] == ["ProfilerStep", "3", "20", "40 of 60", "torch.compile"]
    assert any(sheet.title == "Top operators by self time" for sheet in all_sheets(cpu, 5, "self"))


def test_repeats_are_not_shown_if_the_gpu_is_busy() -> None:
    matmul = summarize_trace(MATMUL)
    assert matmul.repetition
    assert not any("Repeated" in sheet.title for sheet in all_sheets(matmul, 5, "self"))


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    name = '<script>alert("x")</script>|`[bold]a[/]'
    path = write(tmp_path / "t.json", [event("cpu_op", name, 1, 2), event("user_annotation", name, 0, 9)])
    hostile = summarize_trace(path)
    assert to_html(hostile).count("<script>") == 1, "the page's own"
    assert '\n| `<script>alert("x")</script>\\|\'[bold]a[/]` |' in to_markdown(hostile)
    out = io.StringIO()
    print_summary(Console(width=160, file=out), hostile)
    assert name in out.getvalue()


def test_markdown_tables_have_as_many_cells_as_columns(summary: Summary) -> None:
    width = 0
    for line in to_markdown(compare(summary, summary)).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert width in (0, cells), line
        width = cells
