"""A plot of throughput and latencies over batch size or request rate."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from roseinfer.cli.bench.plot_colours import INK, LINE, PAGE, SERIES, with_dark_mode
from roseinfer.cli.bench.result_context import context_parts
from roseinfer.errors import UsageError
from roseinfer.whole_file import check_target, write_whole

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchResults, BenchRun

_MARKERS = "osD^vPX*"
_WIDTH_INCHES, _PANEL_INCHES = 5.2, 2.3
"""Narrow, with the panels one below the other, so that a phone shows the text in a readable size."""
_DPI = 200
_LOG_FROM = 30.0
"""Ratio of the largest to the smallest latency from which their axis is logarithmic."""


def check_plot(path: Path) -> None:
    """Raise UsageError if no plot can be written to `path`. Call this before measuring."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"invalid --plot {path}: give a file that ends in .svg or .png")
    check_target(path, "--plot")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: python -m pip install 'roseinfer[plot]'")


def draw_plot(path: Path, results: "BenchResults") -> None:
    """Draw throughput, TTFT and TPOT over the request rate if it varies, else over the batch size limit.

    Runs that differ in anything else are series of their own, each with one colour in all panels. Error bars are one
    standard deviation over the repeats. An SVG file follows the reader's light or dark mode. Raises RoseinferError if
    the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    runs = results.runs
    by_rate = len({run.workload.request_rate for run in runs}) > 1
    series: dict[str, list[BenchRun]] = {}
    for run in runs:
        series.setdefault(_series(run, by_rate), []).append(run)
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "roseinfer", "font.size": 9, "text.parse_math": False}
    ):
        height = 3 * _PANEL_INCHES + 0.9 + 0.18 * len(series)
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained", facecolor=PAGE)
        panels = figure.subplots(3, 1, sharex=True)
        for index, (label, members) in enumerate(series.items()):
            _draw_series(panels, members, label, index, by_rate)
        labels = ("Throughput, completion tokens/s", "Time to first token, ms", "Time per output token, ms")
        for panel, label in zip(panels, labels, strict=True):
            _finish_panel(panel, label)
        _finish_axis(panels[-1], [_x(run, by_rate) for run in runs], by_rate)
        figure.align_ylabels(panels)
        figure.suptitle(_title(results), color=INK, fontsize=9)
        keys = panels[0].get_legend_handles_labels()
        legend = figure.legend(*keys, loc="outside lower center", ncols=1, frameon=False, labelcolor=INK)
        legend.set_title("Medians over the requests; bars: ± one standard deviation over the repeats")
        legend.get_title().set(color=INK, fontsize=8)
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], dpi=_DPI, metadata=metadata)
    image = drawn.getvalue()
    if path.suffix == ".svg":
        image = with_dark_mode(image.decode()).encode()
    write_whole(path, image)


def _draw_series(panels: Sequence[Any], runs: "Sequence[BenchRun]", label: str, index: int, by_rate: bool) -> None:
    runs = sorted(runs, key=lambda run: _x(run, by_rate))
    x = [_x(run, by_rate) for run in runs]
    look = {
        "color": SERIES[index % len(SERIES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
        "linestyle": ("-", "--", ":")[index // len(SERIES) % 3],
        "capsize": 2.5,
        "label": label,
    }
    throughput = [run.completion_tokens_per_s for run in runs]
    spread = [one.std or 0.0 for one in throughput]
    panels[0].errorbar(x, [one.mean for one in throughput], yerr=spread, **look)
    for panel, name in zip(panels[1:], ("ttft_ms", "tpot_ms"), strict=True):
        latencies = [getattr(run, name) for run in runs]
        medians = [float("nan") if one is None else one.p50 for one in latencies]
        panel.errorbar(x, medians, yerr=[_spread_over_repeats(run, name) for run in runs], **look)


def _spread_over_repeats(run: "BenchRun", name: str) -> float:
    values = [value for repeat in run.per_repeat if (value := getattr(repeat, name)) is not None]
    return stdev(values) if len(values) > 1 else 0.0


def _finish_panel(panel: Any, label: str) -> None:
    values = [y for line in panel.get_lines() if line.get_label() != "_nolegend_" for y in line.get_ydata() if y > 0]
    if "ms" in label and values and max(values) > _LOG_FROM * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:,g}")
    else:
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter("{x:,g}")
    panel.set_ylabel(label, color=INK, fontsize=8.5)
    panel.set_facecolor(PAGE)
    panel.grid(visible=True, color=LINE, linewidth=0.6)
    panel.tick_params(which="both", colors=INK, labelsize=8.5)
    for name, spine in panel.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)


def _finish_axis(panel: Any, values: Sequence[float], by_rate: bool) -> None:
    """Label the shared x axis, with a tick at each measured value; logarithmic, as sweeps usually double."""
    ticks = sorted({value for value in values if value == value})
    if len(ticks) > 1 and ticks[0] > 0:
        panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("Request rate, requests/s" if by_rate else "Batch size limit, requests", color=INK, fontsize=8.5)


def _title(results: "BenchResults") -> str:
    """Return the context on lines that fit the width of the figure."""
    lines = [""]
    for part in context_parts(results):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) > 64 and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _x(run: "BenchRun", by_rate: bool) -> float:
    if not by_rate:
        return run.max_batch_size
    return run.workload.request_rate or float("nan")  # no point on the axis if all arrive at once


def _series(run: "BenchRun", by_rate: bool) -> str:
    """Name what a run's series has in common, in words: the legend has room."""
    prompt = run.workload.prompt_length
    prompts = "prompts of the workload" if prompt is None else f"prompts of {prompt} tokens"
    completion = run.workload.completion_length or run.sampling.max_new_tokens
    batch = f", batch size limit {run.max_batch_size}" if by_rate else ""
    return f"{run.mode}, {prompts}, completions of {completion}{batch}"
