"""Results as HTML for the output of a notebook cell, by the name of their class."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from roseinfer.cli.bench.result_context import context_parts as bench_context
from roseinfer.cli.bench.result_context import headline
from roseinfer.cli.bench.result_tables import change_sheet, run_sheet
from roseinfer.cli.rendering.budget_bars import bar_key, budget_bars, comparison_bars
from roseinfer.cli.rendering.budget_sheets import PARTS, budget_sheets
from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.cli.rendering.html_elements import environment
from roseinfer.cli.rendering.recording_context import context_parts, remarks
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.trace.naming import counted

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchResults, Comparison
    from roseinfer.engine.outputs import RequestOutput
    from roseinfer.profiling.session import SessionResult
    from roseinfer.trace.summary.comparison_structs import TraceComparison
    from roseinfer.trace.summary.trace_summary import Summary

_TOP = 8
"""Rows of a table. A cell is for a look; the report has the rest."""


def html_of(result: object) -> str:
    """Return a result as an HTML element that brings its own style. Raises TypeError for an object of another class."""
    for kind in type(result).__mro__:
        if kind.__name__ in _VIEWS:
            template, view = _VIEWS[kind.__name__]
            return environment().get_template(template).render(view(result))
    raise TypeError(f"no view for {type(result).__name__}")


def _summary(summary: "Summary") -> dict[str, Any]:
    budgets = len(budget_sheets(summary.budget, summary.devices))
    compared = comparison_sheets(summary.comparison, _TOP) if summary.comparison else []
    sheets = [sheet.without_bars() for sheet in all_sheets(summary, _TOP, "self")]
    return {
        "context": context_parts(summary),
        "path": summary.trace.path,
        "verdict": summary.verdict,
        "remarks": remarks(summary),
        "bars": budget_bars(summary.budget, summary.devices),
        "compared_bars": comparison_bars(summary.comparison.budgets) if summary.comparison else [],
        "key": bar_key(summary.budget, summary.comparison),
        "swatches": {part.label: part.key for part in PARTS},
        "comparison": summary.comparison,
        "compared": [sheet for sheet in compared if sheet.rows],
        "open_sheets": sheets[:budgets],
        "sheets": sheets[budgets + sum(bool(sheet.rows) for sheet in compared) :],
    }


def _session(result: "SessionResult") -> dict[str, Any]:
    return _summary(result.summary) | {"path": str(result.run_dir)}


def _trace_comparison(comparison: "TraceComparison") -> dict[str, Any]:
    return {
        "title": f"Compared with {comparison.baseline}",
        "headline": comparison.headline,
        "context": [],
        "warnings": comparison.warnings,
        "bars": comparison_bars(comparison.budgets),
        "key": bar_key(None, comparison),
        "sheets": [sheet for sheet in comparison_sheets(comparison, _TOP) if sheet.rows],
    }


def _bench_results(results: "BenchResults") -> dict[str, Any]:
    changes = [] if results.comparison is None else [change_sheet(results.comparison)]
    return {
        "title": f"Benchmark of {results.model.name}",
        "headline": headline(results),
        "context": bench_context(results),
        "warnings": [] if results.comparison is None else results.comparison.differences,
        "bars": [],
        "sheets": [*changes, run_sheet(results.runs)],
    }


def _bench_comparison(comparison: "Comparison") -> dict[str, Any]:
    return {
        "title": f"Compared with {comparison.baseline}",
        "headline": "",
        "context": [],
        "warnings": comparison.differences,
        "bars": [],
        "sheets": [change_sheet(comparison)],
    }


def _output(output: "RequestOutput") -> dict[str, Any]:
    facts = [
        f"finish reason {output.finish_reason}",
        counted(len(output.prompt_token_ids), "prompt token"),
        counted(len(output.token_ids), "completion token"),
    ]
    if output.ttft_s is not None:
        facts.append(f"first token after {1e3 * output.ttft_s:,.0f} ms")
    if len(output.token_times_s) > 1:
        gap_s = (output.token_times_s[-1] - output.token_times_s[0]) / (len(output.token_times_s) - 1)
        facts.append(f"{1e3 * gap_s:,.1f} ms per further token")
    sample = f", completion {output.sample_index}" if output.sample_index else ""
    return {"title": f"Request {output.request_id}{sample}", "text": output.text, "facts": facts}


_VIEWS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "Summary": ("notebook_summary.html.j2", _summary),
    "SessionResult": ("notebook_summary.html.j2", _session),
    "TraceComparison": ("notebook_tables.html.j2", _trace_comparison),
    "BenchResults": ("notebook_tables.html.j2", _bench_results),
    "Comparison": ("notebook_tables.html.j2", _bench_comparison),
    "RequestOutput": ("notebook_output.html.j2", _output),
}
"""Template, and function that returns its variables, by class name. Class names are unique in the package."""
