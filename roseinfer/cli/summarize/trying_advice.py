"""`roseinfer summarize RUN --try`: measure what the advice on a run gives."""

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from roseinfer.advice.levers import as_options
from roseinfer.advice.recorded_run import read_run
from roseinfer.advice.trial_rounds import OnEvent
from roseinfer.advice.tried_advice import TryReport, try_advice
from roseinfer.cli import console
from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.trace.summary.trace_summary import Summary

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60}


def parse_budget(text: str) -> float:
    """Return the seconds that `--budget` names: `120s`, `120` or `5min`. Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min)?", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2] or ""] if found else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"invalid --budget {text!r}: give a time, such as 120s or 5min")
    return seconds


def run_trials(run_dir: Path, budget: str, summarized: Callable[[Path], "Summary"], *, as_json: bool) -> None:
    """Try the advice on a run, and print the report, also after Ctrl-C if something was measured by then."""
    budget_s = parse_budget(budget)
    read_run(run_dir, "--try")  # refuses anything else before a trace is read
    summary = summarized(run_dir)
    with _progress(as_json) as on_event:
        report = try_advice(run_dir, summary, budget_s, on_event=on_event)
    if as_json:
        console.print_json(report)
    else:
        _print(report)
    if report.is_interrupted:
        raise KeyboardInterrupt


@contextmanager
def _progress(as_json: bool) -> Iterator[OnEvent]:
    """Yield the callback that reports progress on stderr: a JSON document per line with --json, else as text."""
    if as_json:
        yield _events_as_json()
        return
    with console.stages() as stage:

        def on_event(name: str, fields: dict[str, Any]) -> None:
            if stage is None:
                return
            match name:
                case "starting":
                    stage(f"Starting {len(fields['settings'])} engines", ticks=True)
                case "round":
                    over = f" over {as_options(fields['over'])}" if fields["over"] else ""
                    stage(f"Measuring {as_options(fields['settings'])}: {fields['saves_percent']:.1f} % saved{over}")

        yield on_event


def _events_as_json() -> OnEvent:
    began_s = time.monotonic()

    def on_event(name: str, fields: dict[str, Any]) -> None:
        if console.settings.quiet or sys.stderr is None:
            return
        line = {"event": name, "elapsed_s": round(time.monotonic() - began_s, 1), **fields}
        with suppress(OSError, ValueError):  # progress is not worth a failure
            sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
            sys.stderr.flush()

    return on_event


def _print(report: TryReport) -> None:
    from roseinfer.cli.rendering.advice_sheets import report_lines, tried_sheet
    from roseinfer.cli.rendering.terminal import sheet_table
    from roseinfer.cli.rendering.text_wrapping import wrapped

    out = console.stdout
    if report.predictions:
        out.print(sheet_table(tried_sheet(report), out.width), soft_wrap=True)
        out.print()
    for line in report_lines(report):
        for part in wrapped(line, out.width):
            out.print(part, markup=False, highlight=False, soft_wrap=True)
    if report.command is not None:
        out.print(f"Run it: {report.command}", markup=False, highlight=False, soft_wrap=True)
    console.note(f"[try] wrote: {Path(report.run_dir) / 'predictions.json'}")
