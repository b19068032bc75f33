"""Benchmark results as rows of text, and these as tables for a terminal and for Markdown."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from roseinfer.cli.rendering.ragged_table import RaggedTable
from roseinfer.cli.rendering.table_sheet import Sheet, sheet

if TYPE_CHECKING:
    from roseinfer.bench.metrics import Latency, Spread
    from roseinfer.bench.results import BenchResults, BenchRun, Change, Comparison

TableRow = tuple[str, ...]

RUN_COLUMNS: TableRow = ("run", "req/s", "tokens/s", "", "TTFT", "TPOT", "ITL", "E2E", "step", "MBU %", "MFU %")
"""Column titles of the table of runs. MBU is of decode steps, MFU of prefill steps.

Each latency cell has four lines: mean and percentiles. The untitled column labels them.
"""
SPEED_COLUMNS: TableRow = ("model", "parameters", "dtype", "mode", "batch", "test", "t/s")
LEFT_COLUMNS = len(SPEED_COLUMNS) - 1
"""Number of left-aligned columns in the table of speeds: all but the last, which holds the speed."""
CHANGE_COLUMNS: TableRow = ("run", "figure", "before", "after", "change", "noise", "")
RUN_TITLE = "Throughput: mean ± std over the repeats. Latencies: over all their requests, ms. Step: median decode, ms."
_LATENCY_PARTS = ("mean", "p50", "p90", "p99")


def run_rows(runs: "Sequence[BenchRun]") -> list[TableRow]:
    """Return a row per run: throughput, latencies, MBU and MFU."""
    return [
        (
            run.name,
            _spread(run.requests_per_s),
            _spread(run.completion_tokens_per_s),
            "\n".join(_LATENCY_PARTS),
            _latency(run.ttft_ms),
            _latency(run.tpot_ms),
            _latency(run.itl_ms),
            _latency(run.e2e_ms),
            "-" if run.decode is None else _figure(run.decode.median_step_ms),
            "-" if run.decode is None else f"{run.decode.mbu_percent:.1f}",
            "-" if run.prefill is None else f"{run.prefill.mfu_percent:.1f}",
        )
        for run in runs
    ]


def run_sheet(runs: "Sequence[BenchRun]") -> Sheet:
    """Return a sheet with a row per run and medians of the latencies, narrower than the table of `run_rows`."""
    rows = [
        [
            run.name,
            _spread(run.completion_tokens_per_s).replace("\n", " "),
            *("-" if one is None else _figure(one.p50) for one in (run.ttft_ms, run.tpot_ms, run.e2e_ms)),
            "-" if run.decode is None else _figure(run.decode.median_step_ms),
            "-" if run.decode is None else f"{run.decode.mbu_percent:.1f}",
            "-" if run.prefill is None else f"{run.prefill.mfu_percent:.1f}",
        ]
        for run in runs
    ]
    columns = ("*Run", "Tokens/s", "TTFT ms", "TPOT ms", "E2E ms", "Step ms", "MBU %", "MFU %")
    return sheet("Throughput: mean ± std over the repeats. Latencies and decode steps: medians.", columns, rows)


def speed_rows(results: "BenchResults") -> list[TableRow]:
    """Return two rows per run as llama-bench prints them: prefill (pp), and decode after that prompt (tg @ d)."""
    model = results.model
    rows: list[TableRow] = []
    for run in results.runs:
        shared = (model.name, f"{model.parameters / 1e6:.1f} M", model.dtype, run.mode, str(run.max_batch_size))
        prefill = [repeat.prefill_tokens_per_s for repeat in run.per_repeat]
        decode = [repeat.decode_tokens_per_s for repeat in run.per_repeat]
        rows.append((*shared, prefill_name(run), _rate(prefill)))
        rows.append((*shared, decode_name(run), _rate(decode)))
    return rows


def change_rows(changes: "Sequence[Change]", limit_percent: float | None) -> list[TableRow]:
    """Return a row per figure. The last cell says if a change past the limit is a regression or noise."""
    return [
        (
            change.run,
            change.metric,
            f"{change.before:.2f}",
            f"{change.after:.2f}",
            f"{change.change_percent:+.1f} %",
            "" if change.noise_percent is None else f"± {change.noise_percent:.1f} %",
            _judged(change, limit_percent),
        )
        for change in changes
    ]


def change_sheet(comparison: "Comparison") -> Sheet:
    """Return a sheet with a row per figure. Changes within the noise are plain numbers; others say what they mean."""
    words = {True: "worse", False: "better", None: ""}
    rows = [
        [change.run, *row[1:], words[is_change_for_the_worse(change)]]
        for change, row in zip(
            comparison.changes, change_rows(comparison.changes, comparison.limit_percent), strict=True
        )
    ]
    columns = ("*Run", "-Figure", "Before", "After", "Change", "Noise", "-Limit", "~Meaning")
    return sheet(f"Against {comparison.baseline}", columns, rows)


def prefill_name(run: "BenchRun") -> str:
    """Return llama-bench's name of a prefill: `pp512` for prompts of 512 tokens."""
    return f"pp{run.workload.prompt_length or round(run.prompt_tokens / run.requests)}"


def decode_name(run: "BenchRun") -> str:
    """Return llama-bench's name of a decode: `tg128 @ d512` for 128 tokens after a prompt of 512."""
    length = run.workload.completion_length or run.sampling.max_new_tokens
    return f"tg{length} @ d{prefill_name(run).removeprefix('pp')}"


def is_change_for_the_worse(change: "Change") -> bool | None:
    """Return True if a figure is worse by more than its noise, False if it is better by more; None otherwise."""
    if change.noise_percent is None or abs(change.change_percent) <= change.noise_percent:
        return None
    return change.worse_percent > 0


def rich_table(
    columns: TableRow, rows: Sequence[TableRow], title: str | None = None, left: int = 1, styles: Sequence[str] = ()
) -> Table:
    """Return a table for a terminal, with its first `left` columns left-aligned, and perhaps a style per row."""
    table = RaggedTable(
        title=None if title is None else Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(*(Text(cell) for cell in row), style=styles[index] if styles else None)
    return table


def markdown_table(columns: TableRow, rows: Sequence[TableRow], left: int = 1) -> str:
    """Return a Markdown table, with its first `left` columns left-aligned."""
    rule = [":--" if index < left else "--:" for index in range(len(columns))]
    lines = [columns, rule, *([cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latency(latency: "Latency | None") -> str:
    return "-" if latency is None else "\n".join(_figure(getattr(latency, part)) for part in _LATENCY_PARTS)


def _spread(rate: "Spread | None") -> str:
    if rate is None or rate.std is None:
        return "-" if rate is None else _figure(rate.mean)
    return f"{_figure(rate.mean)}\n± {_figure(rate.std)}"


def _figure(value: float) -> str:
    """Format a value with three significant digits, and with all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rate(per_repeat: "Sequence[float | None]") -> str:
    values = [value for value in per_repeat if value is not None]
    if not values:
        return "-"
    return _figure(mean(values)) + (f" ± {_figure(stdev(values))}" if len(values) > 1 else "")


def _judged(change: "Change", limit_percent: float | None) -> str:
    if limit_percent is None or change.worse_percent <= limit_percent:
        return ""
    return "regression" if change.is_regression(limit_percent) else "within the noise"
