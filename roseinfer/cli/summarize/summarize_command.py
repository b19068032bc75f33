"""`roseinfer summarize`: explain a trace, and compare it with another."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from msgspec import structs

from roseinfer.cli import console, exit_codes
from roseinfer.cli.comparison_limit import FailAbove, parse_percent
from roseinfer.cli.config_flags import flag_help
from roseinfer.cli.exit_codes import comparison_exit_code
from roseinfer.cli.options import Debug, Json, Quiet
from roseinfer.cli.rendering.work_groups import GroupBy
from roseinfer.config import SortKey
from roseinfer.errors import TraceError, UsageError
from roseinfer.whole_file import check_target, write_whole

if TYPE_CHECKING:
    from roseinfer.trace import Summary
    from roseinfer.trace.summary.work_structs import DevicePeaks

_PROGRESS_FROM_BYTES = 4 << 20
"""Size of a trace above which reading it takes long enough for a progress bar."""

_USUAL_BUDGET = "120s"
_USUAL_TOP = 15


class _Shown(NamedTuple):
    """Options of the tables of operators."""

    top: int
    sort_by: SortKey
    group_by: GroupBy | None


EXAMPLES = (
    ("Explain the newest run of roseinfer profile", "roseinfer summarize profiles/latest"),
    ("Explain a trace of any PyTorch program", "roseinfer summarize trace.json.gz --html report.html"),
    (
        "Fail if a change made something slower by more than 5 %",
        "roseinfer summarize new.json.gz --baseline old.json.gz --fail-above 5%",
    ),
    ("A table for a pull request", "roseinfer summarize trace.json.gz --markdown"),
    (
        "Try the advice on a run, then see how good advice was",
        "roseinfer summarize profiles/latest --try\n  roseinfer summarize profiles --scores",
    ),
)


def summarize(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="Trace of torch.profiler (.json, .json.gz), run directory, or folder of traces.",
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", metavar="OLD", help="Older trace or folder to compare with.", rich_help_panel="Comparison"
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--rerun",
            help="Profile the workload of a run directory again with the current code, and compare.",
            rich_help_panel="Comparison",
        ),
    ] = False,
    fail_above: FailAbove = None,
    finding: Annotated[
        str | None,
        typer.Option(
            "--finding",
            metavar="ID",
            help="Finding or bound of the older run whose advice was followed: kept in its predictions.json.",
            rich_help_panel="Comparison",
        ),
    ] = None,
    try_it: Annotated[
        bool,
        typer.Option("--try", help="Measure what the advice on a run directory gives.", rich_help_panel="Advice"),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Time for --try, such as 5min [default: 120s].",
            rich_help_panel="Advice",
        ),
    ] = None,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores",
            help="Print how good each kind of advice was, over the run directories in a folder.",
            rich_help_panel="Advice",
        ),
    ] = False,
    top: Annotated[
        int, typer.Option("--top", min=1, metavar="N", help=flag_help("profile", "top"), rich_help_panel="Output")
    ] = _USUAL_TOP,
    sort_by: Annotated[
        SortKey,
        typer.Option(
            "--sort-by",
            metavar="self|total|calls",
            help=flag_help("profile", "sort_by"),
            rich_help_panel="Output",
        ),
    ] = "self",
    group_by: Annotated[
        GroupBy | None,
        typer.Option(
            "--group-by",
            metavar="op|shape|kernel|category|module|stack",
            help="Table of the GPU's work, in place of operators and kernels.",
            rich_help_panel="Output",
        ),
    ] = None,
    capture: Annotated[
        Path | None,
        typer.Option(
            "--capture",
            metavar="FILE",
            help="Trace of an eager run, whose operators the graph replays get.",
            rich_help_panel="Output",
        ),
    ] = None,
    max_findings: Annotated[
        int | None,
        typer.Option(
            "--max-findings",
            min=1,
            metavar="N",
            help="Maximum number of findings, the largest causes first [default: all].",
            rich_help_panel="Output",
        ),
    ] = None,
    peak: Annotated[
        str | None,
        typer.Option(
            "--peak",
            metavar="TFLOPS,TB/S",
            help="Peaks of the device: bfloat16 TFLOP/s, memory TB/s [default: by its name].",
            rich_help_panel="Output",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a pull request.", rich_help_panel="Output")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="File for a self-contained HTML page, in addition.", rich_help_panel="Output"
        ),
    ] = None,
    folded: Annotated[
        Path | None,
        typer.Option(
            "--folded",
            metavar="FILE",
            help="File for Python stacks with their time in us, for flame graphs.",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Explain a torch.profiler trace: where the time goes, why the GPU waits, and what to do about it."""
    if try_it or scores:
        _refuse_beside_advice(
            "--try" if try_it else "--scores",
            {
                "--scores": try_it and scores,
                "--baseline": baseline is not None,
                "--rerun": again,
                "--fail-above": fail_above is not None,
                "--finding": finding is not None,
                "--top": top != _USUAL_TOP,
                "--sort-by": sort_by != "self",
                "--group-by": group_by is not None,
                "--capture": capture is not None,
                "--max-findings": max_findings is not None,
                "--peak": peak is not None,
                "--markdown": markdown,
                "--html": html is not None,
                "--folded": folded is not None,
            },
        )
    if budget is not None and not try_it:
        raise UsageError("--budget limits --try: add --try, or leave --budget out")
    if scores:
        from roseinfer.cli.summarize.showing_scores import show_scores

        show_scores(trace, as_json=as_json)
        return 0
    if try_it:
        from roseinfer.cli.summarize.trying_advice import run_trials

        run_trials(trace, budget or _USUAL_BUDGET, lambda path: _read(path, None), as_json=as_json)
        return 0
    if finding is not None and baseline is None and not again:
        raise UsageError("--finding needs a --baseline or --rerun that follows the advice")
    if again and baseline is not None:
        raise UsageError("--rerun compares with the run itself: leave --baseline out")
    if fail_above is not None and baseline is None and not again:
        raise UsageError("--fail-above needs a --baseline or --rerun to compare with")
    if as_json and markdown:
        raise UsageError("--json and --markdown are two formats: choose one")
    if as_json and group_by is not None:
        raise UsageError("--group-by chooses a table, and --json has all of them: leave one out")
    limit = None if fail_above is None else parse_percent(fail_above)
    if html is not None:
        check_target(html, "--html")
    if folded is not None:
        check_target(folded, "--folded")
    from roseinfer.trace import compare
    from roseinfer.trace.device_peaks import parse_peaks

    peaks = None if peak is None else parse_peaks(peak)
    if finding is not None:
        from roseinfer.cli.summarize.recording_predictions import check_run_dir

        check_run_dir(baseline or trace)
    summary = _read(trace, peaks, folded, capture)
    if peak is not None and all(row.shapes is None for row in summary.operators):
        raise TraceError(f"--peak: {trace} has no shapes of operators; record with record_shapes=True")
    if again:
        from roseinfer.cli.summarize.rerun import rerun

        if finding is not None:
            from roseinfer.cli.summarize.recording_predictions import check_finding

            check_finding(finding, summary)
        older, summary = summary, compare(rerun(trace), summary, limit)
    elif baseline is not None:
        older = _read(baseline, peaks)
        summary = compare(summary, older, limit)
    if finding is not None:
        from roseinfer.cli.summarize.recording_predictions import record_prediction

        record_prediction(baseline or trace, finding, older, summary, is_rerun=again)
    if max_findings is not None:
        summary = structs.replace(summary, findings=summary.findings[:max_findings])
    try:
        _print(summary, _Shown(top, sort_by, group_by), as_json, markdown)
        sys.stdout.flush()
    finally:  # a reader of stdout that has left, or a full disk, costs no page
        if html is not None:
            _write_page(html, summary)
    if summary.comparison and summary.comparison.failed:
        console.print_error(f"slower than the baseline by more than {fail_above}: {summary.comparison.headline}")
        return comparison_exit_code(True)
    if summary.verdict.kind == "empty":
        console.print_error(f"{trace} holds no operators, spans or GPU events: give a trace of torch.profiler")
        return exit_codes.RUN_FAILED
    return 0


def _refuse_beside_advice(option: str, others: dict[str, bool]) -> None:
    """Raise UsageError for an option that would have no effect beside --try or --scores."""
    for name, is_given in others.items():
        if is_given:
            raise UsageError(f"{option} prints a table of its own, or --json: leave {name} out")


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector from going through millions of new objects, none of which is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collector_off()
def _read(
    path: Path, peaks: "DevicePeaks | None", folded: Path | None = None, capture: Path | None = None
) -> "Summary":
    """Summarize a trace, and write its Python stacks to the file `folded`, if it is given."""
    from roseinfer.trace.pipeline import folded_stacks, read_columns, summarize_columns

    eager = None if capture is None else read_columns(capture)[0]
    if path.is_dir() or (path.is_file() and path.stat().st_size >= _PROGRESS_FROM_BYTES):
        with console.progress(f"Reading {path.name}", "bytes") as on_progress:
            columns, manifest = read_columns(path, on_progress=on_progress)
            summary = summarize_columns(columns, manifest, peaks, eager)
    else:
        columns, manifest = read_columns(path)
        summary = summarize_columns(columns, manifest, peaks, eager)
    if folded is not None:
        if len(columns.frames) == 0:
            raise TraceError(f"--folded: {path} has no Python stacks; record with with_stack=True")
        write_whole(folded, "".join(f"{line}\n" for line in folded_stacks(columns)).encode())
        console.note(f"wrote {folded}")
    return summary


def _write_page(path: Path, summary: "Summary") -> None:
    from roseinfer.cli.rendering.html_page import to_html
    from roseinfer.cli.rendering.recording_context import typed_command

    write_whole(path, to_html(summary, command=typed_command()).encode())
    console.note(f"wrote {path}")


@_collector_off()
def _print(summary: "Summary", shown: _Shown, as_json: bool, markdown: bool) -> None:
    top, sort_by, group_by = shown
    if as_json:
        console.print_json(summary)
    elif markdown:
        from roseinfer.cli.rendering.markdown import to_markdown
        from roseinfer.cli.rendering.recording_context import typed_command

        text = to_markdown(summary, top, sort_by, group_by=group_by, command=typed_command())
        console.stdout.out(text, end="", highlight=False)
    else:
        from roseinfer.cli.rendering.terminal import print_summary

        print_summary(console.stdout, summary, top, sort_by, group_by)
