"""Results of `bench` in documents: Markdown that stands alone, and a plot with units, error bars and dark mode."""

import re
from pathlib import Path

import msgspec
import pytest
from scripted_results import results

from roseinfer.bench.baseline_comparison import comparison
from roseinfer.bench.results import BenchResults
from roseinfer.cli.bench import plot_colours
from roseinfer.cli.bench.result_context import context_parts, headline
from roseinfer.cli.bench.result_markdown import bench_markdown
from roseinfer.cli.bench.result_plot import draw_plot


def sweep(modes: tuple[str, ...] = ("online",), rates: tuple[float | None, ...] = (None,)) -> BenchResults:
    """Return results of three batch sizes, for each mode and rate."""
    made = results([0.010, 0.012, 0.011], num_requests=2)
    runs = []
    for mode in modes:
        for rate in rates:
            for batch in (1, 2, 4):
                [run] = results([0.010 * batch, 0.012 * batch, 0.011 * batch], num_requests=2).runs
                workload = msgspec.structs.replace(run.workload, request_rate=rate)
                runs.append(msgspec.structs.replace(run, mode=mode, max_batch_size=batch, workload=workload))
    return msgspec.structs.replace(made, runs=runs)


def compared(before: list[float], after: list[float], limit: float | None) -> BenchResults:
    old, new = results(before), results(after)
    return msgspec.structs.replace(new, comparison=comparison(Path("old.json"), old, new, limit))


def test_markdown_has_title_context_result_tables_and_command() -> None:
    made = results([0.010, 0.011])
    environment = msgspec.structs.replace(made.environment, measured_at="2026-11-27T01:02:03Z")
    text = bench_markdown(msgspec.structs.replace(made, environment=environment), ["a remark"], True, "roseinfer bench")
    lines = text.splitlines()
    assert lines[0] == "### Benchmark of m"
    assert lines[2].startswith("m, 0.0 M parameters, float32 · d · roseinfer ")
    assert lines[2].endswith(" · measured 2026-11-27 01:02 UTC")
    assert lines[4].startswith("**Result: online: ")
    assert "| m | 0.0 M | float32 | online | 1 | pp4 |" in text
    assert "mean<br>p50<br>p90<br>p99" in text
    assert "\n- a remark\n" in text
    assert text.endswith("\n```console\n$ roseinfer bench\n```")


def test_rows_of_a_markdown_table_have_as_many_cells_as_its_head() -> None:
    width = 0
    for line in bench_markdown(compared([0.01, 0.011], [0.02, 0.021], None), [], True, None).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


@pytest.mark.parametrize(
    ("before", "after", "limit", "sentence"),
    [
        ([0.010, 0.011], [0.020, 0.021], 5.0, "Regression: online: "),
        ([0.010, 0.011], [0.010, 0.011], 5.0, "No regression: no figure is worse by more than 5 % and its noise."),
        ([0.010, 0.011], [0.010, 0.011], None, "No clear change: no figure changed by more than its noise."),
        ([0.020, 0.0201], [0.010, 0.0101], None, "of 4 figures changed by more than their noise; most: online: "),
        ([0.010], [0.020], None, "The noise of the figures is not known"),
    ],
)
def test_the_verdict_of_a_comparison_is_one_sentence(
    before: list[float], after: list[float], limit: float | None, sentence: str
) -> None:
    made = compared(before, after, limit)
    assert sentence in headline(made)
    text = bench_markdown(made, [], False, None)
    assert "**Verdict: " in text
    assert "Compared with `old.json`:" in text


def test_the_headline_names_the_fastest_run() -> None:
    made = sweep()
    assert headline(made).startswith("Highest throughput: online, ")
    assert "median TPOT" in headline(made)
    assert headline(msgspec.structs.replace(made, runs=[])) == "Nothing was measured."


def test_the_plot_has_units_and_one_colour_per_series_in_every_panel(tmp_path: Path) -> None:
    draw_plot(tmp_path / "p.svg", sweep(modes=("online", "offline")))
    svg = (tmp_path / "p.svg").read_text()
    for label in ("Throughput, completion tokens/s", "Time to first token, ms", "Time per output token, ms"):
        assert label in svg
    assert "Batch size limit, requests" in svg
    lines = re.findall(r'<path d="M [^"]*L [^"]*L [^"]*" clip-path[^>]*stroke: (#\w{6})', svg)
    series = [colour for colour in lines if colour in plot_colours.SERIES]
    assert [series.count(colour) for colour in plot_colours.SERIES[:2]] == [3, 3]
    assert set(series) == set(plot_colours.SERIES[:2])


def test_error_bars_are_the_spread_over_the_repeats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float]]] = []
    original = Axes.errorbar

    def errorbar(self: Axes, x: list[float], y: list[float], yerr: list[float], **look: object) -> object:
        drawn.append((y, yerr))
        return original(self, x, y, yerr=yerr, **look)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    made = sweep()
    draw_plot(tmp_path / "p.png", made)
    throughput, _, tpot = drawn
    assert throughput == (
        [run.completion_tokens_per_s.mean for run in made.runs],
        [run.completion_tokens_per_s.std for run in made.runs],
    )
    assert tpot[1] == pytest.approx([1.0, 2.0, 4.0])  # ms: steps of 10, 11 and 12 ms per request


def test_the_axis_is_the_request_rate_if_the_rate_varies(tmp_path: Path) -> None:
    draw_plot(tmp_path / "p.svg", sweep(rates=(0.5, 4.0, None)))
    svg = (tmp_path / "p.svg").read_text()
    assert "Request rate, requests/s" in svg
    assert "batch size limit 4" in svg


def test_many_series_and_single_repeats_are_drawn(tmp_path: Path) -> None:
    made = results([0.010])
    runs = [
        msgspec.structs.replace(
            made.runs[0], workload=msgspec.structs.replace(made.runs[0].workload, prompt_length=str(16 * one + 16))
        )
        for one in range(12)
    ]
    draw_plot(tmp_path / "p.png", msgspec.structs.replace(made, runs=runs))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_an_svg_plot_follows_dark_mode_and_keeps_its_light_colours_for_old_viewers(tmp_path: Path) -> None:
    draw_plot(tmp_path / "p.svg", sweep())
    svg = (tmp_path / "p.svg").read_text()
    assert "@media (prefers-color-scheme: dark)" in svg
    first = plot_colours.SERIES[0]
    assert f"stroke: {first}; stroke: var(--c{first[1:]})" in svg
    painted = set(re.findall(r"(?:fill|stroke): (#\w{6})\b", svg))
    assert painted <= set(plot_colours.DARK)


def test_every_light_colour_has_a_dark_one_and_every_series_its_own() -> None:
    assert set(plot_colours.SERIES) | {plot_colours.INK, plot_colours.LINE, plot_colours.PAGE} == set(plot_colours.DARK)
    assert len(set(plot_colours.SERIES)) == len(plot_colours.SERIES)
    assert len(set(plot_colours.DARK.values())) == len(plot_colours.DARK)


def test_the_context_leaves_out_what_is_not_known() -> None:
    made = results([0.010])
    assert not any("measured" in part for part in context_parts(made))
