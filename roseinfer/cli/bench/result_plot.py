"""A plot of throughput and latency against batch size or request rate."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchRun


def check_plot(path: Path) -> None:
    """Raise UsageError if no plot can be written to `path`. Call this before measuring."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"invalid --plot {path}: give a file that ends in .svg or .png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"invalid --plot {path}: its folder does not exist: create it, or name another")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'roseinfer[plot]'")


def draw_plot(path: Path, runs: "Sequence[BenchRun]") -> None:
    """Draw throughput and latency over the request rate if it varies, else over the batch limit.

    Runs that differ in anything else get lines of their own.
    """
    from matplotlib.figure import Figure

    by_rate = len({run.workload.request_rate for run in runs}) > 1
    figure = Figure(figsize=(10, 4), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    series: dict[str, list[BenchRun]] = {}
    for run in runs:
        series.setdefault(_series(run, by_rate), []).append(run)
    for label, members in series.items():
        x = [_x(run, by_rate) for run in members]
        throughput.plot(x, [run.completion_tokens_per_s.mean for run in members], marker="o", label=label)
        for name, style in (("ttft_ms", "--"), ("tpot_ms", "-")):
            y = [getattr(run, name) for run in members]
            values = [float("nan") if value is None else value.p50 for value in y]
            latency.plot(x, values, style, marker="o", label=f"{name[:4].upper()}, {label}")
    for panel, title in ((throughput, "completion tokens/s"), (latency, "median latency, ms")):
        panel.set_title(title)
        panel.set_xlabel("requests per second" if by_rate else "batch limit")
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize="small")
    throughput.set_ylim(bottom=0)
    latency.set_yscale("log")
    figure.savefig(path)


def _x(run: "BenchRun", by_rate: bool) -> float:
    if not by_rate:
        return run.max_batch_size
    return run.workload.request_rate or float("nan")  # no point on the axis if all arrive at once


def _series(run: "BenchRun", by_rate: bool) -> str:
    prompt = "" if run.workload.prompt_length is None else f" pp{run.workload.prompt_length}"
    batch = f" bs={run.max_batch_size}" if by_rate else ""
    return f"{run.mode}{prompt} tg{run.workload.completion_length or run.sampling.max_new_tokens}{batch}"
