"""Find the traces in a folder: in a run directory, or in a collection of traces of several ranks and cycles."""

import re
from pathlib import Path

import msgspec

from roseinfer.errors import TraceError
from roseinfer.progress import ProgressCallback
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.rank_names import identify_ranks
from roseinfer.trace.reading.trace_merge import merge_traces
from roseinfer.trace.reading.trace_reader import read_trace

_OTHERS = ("manifest.json", "summary.json", "predictions.json")
"""Ends of the names of a run directory's files that are no traces, such as `rank1-manifest.json`."""
_NUMBERS = re.compile(r"\d+")


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that says why a run has no trace."""

    warnings: list[str] = []


def read_folder(folder: Path, *, on_progress: ProgressCallback | None = None) -> Trace:
    """Read the traces of a folder, one after another, and merge them into one trace of all ranks and cycles.

    Files that are no traces are left out, with a note. Raises TraceError if no file is a trace.
    """
    files = find_traces(folder)
    total = sum(file.stat().st_size for file in files)
    traces: list[Trace] = []
    left_out: list[TraceError] = []
    done = 0
    for file in files:
        progress = None if on_progress is None else lambda now, _, at=done: on_progress(at + now, total)
        try:
            traces.append(read_trace(file, on_progress=progress))
        except TraceError as error:
            left_out.append(error)
        done += file.stat().st_size
    if not traces:
        raise left_out[0]
    notes = [f"Left out of the folder: {str(error).removeprefix(f'{folder}/')}." for error in left_out]
    traces, guessed = identify_ranks(traces)
    return merge_traces(traces, str(folder), notes + guessed)


def find_traces(folder: Path) -> list[Path]:
    """Return the `.json` and `.json.gz` files that may be traces, sorted by the numbers in their names.

    Raises TraceError if there are none.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.endswith((".json", ".json.gz")) and not path.name.endswith(_OTHERS)
    ]
    if not found:
        if reason := _reason_of_no_trace(folder):
            raise TraceError(f"{folder}: no trace in this run directory: {reason}")
        run = _newest_run(folder)
        hint = f"it holds run directories: summarize one, such as {run}" if run else "looked for .json and .json.gz"
        raise TraceError(f"{folder}: no trace in this folder; {hint}")
    return sorted(found, key=lambda path: ([int(number) for number in _NUMBERS.findall(path.name)], path.name))


def _reason_of_no_trace(folder: Path) -> str | None:
    """Return the last warning of a run directory's manifest; None without one."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return manifest.warnings[-1] if manifest.warnings else None


def _newest_run(folder: Path) -> Path | None:
    """Return the newest run directory in a folder: `latest`, else the last by name, else None."""
    latest = folder / "latest"
    if latest.is_dir():
        return latest
    return max((path for path in folder.iterdir() if (path / "manifest.json").is_file()), default=None)
