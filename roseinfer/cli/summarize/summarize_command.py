"""`roseinfer summarize`: what a trace says, and what changed since another."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet
from roseinfer.errors import RoseinferError, UsageError

if TYPE_CHECKING:
    from roseinfer.trace import Summary

_PROGRESS_FROM_BYTES = 4 << 20
_EMPTY_EXIT_CODE = 1
_REGRESSION_EXIT_CODE = 3
_LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*%?$")


def summarize(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A torch.profiler trace (.json, .json.gz) or a folder of them.")
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="OLD", help="A trace or folder to compare with.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--rerun", help="Profile a run directory's workload again, with today's code, and compare."),
    ] = False,
    fail_above: Annotated[
        str | None,
        typer.Option("--fail-above", metavar="5%", help="Exit with 3 when a step got slower by more than this."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Rows of the top operators, per device.")] = 15,
    sort_by: Annotated[
        Literal["self", "total", "calls"], typer.Option("--sort-by", help="What the top operators are sorted by.")
    ] = "self",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page as well.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Explain a torch.profiler trace: where the time goes, why the GPU waits, and what to do about it."""
    if again and baseline is not None:
        raise UsageError("--rerun compares with the run itself: leave --baseline out")
    limit = _limit(fail_above, trace if again else baseline)
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other")
    from roseinfer.trace import compare

    summary = _read(trace)
    if again:
        from roseinfer.cli.summarize.rerun import rerun

        summary = compare(rerun(trace), summary, limit)
    elif baseline is not None:
        summary = compare(summary, _read(baseline), limit)
    if html is not None:
        _write_page(html, summary)
    _print(summary, top, sort_by, as_json, markdown)
    if summary.comparison and summary.comparison.failed:
        console.print_error(f"slower than {fail_above} over the baseline: {summary.comparison.headline}")
        return _REGRESSION_EXIT_CODE
    if summary.verdict.kind == "empty":
        console.print_error(f"{trace}: no operators, no spans and no GPU events of torch.profiler in it")
        return _EMPTY_EXIT_CODE
    return 0


def _limit(fail_above: str | None, baseline: Path | None) -> float | None:
    if fail_above is None:
        return None
    found = _LIMIT.match(fail_above.strip())
    if not found:
        raise UsageError(f"--fail-above takes a percentage such as 5%, got {fail_above!r}")
    if baseline is None:
        raise UsageError("--fail-above needs --baseline or --rerun: there is nothing to be slower than")
    return float(found.group(1))


def _read(path: Path) -> "Summary":
    from roseinfer.trace import summarize_trace

    if path.is_dir() or (path.is_file() and path.stat().st_size >= _PROGRESS_FROM_BYTES):
        with console.progress(f"reading {path.name}", "bytes") as on_progress:
            return summarize_trace(path, on_progress=on_progress)
    return summarize_trace(path)


def _write_page(path: Path, summary: "Summary") -> None:
    from roseinfer.cli.rendering.html_page import to_html

    try:
        path.write_text(to_html(summary), encoding="utf-8")
    except OSError as error:
        raise RoseinferError(f"cannot write {path}: {error.strerror or error}") from error
    console.note(f"wrote {path}")


def _print(
    summary: "Summary", top: int, sort_by: Literal["self", "total", "calls"], as_json: bool, markdown: bool
) -> None:
    if as_json:
        console.print_json(summary)
    elif markdown:
        from roseinfer.cli.rendering.markdown import to_markdown

        console.stdout.out(to_markdown(summary, top, sort_by), end="", highlight=False)
    else:
        from roseinfer.cli.rendering.terminal import print_summary

        print_summary(console.stdout, summary, top, sort_by)
