"""Find the traces in a folder: in a run directory, or in a collection of traces of several ranks and cycles."""

import re
from pathlib import Path

import msgspec

from roseinfer.errors import TraceError

_OTHERS = {"manifest.json", "summary.json"}
_NUMBERS = re.compile(r"\d+")


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that says why a run has no trace."""

    warnings: list[str] = []


def find_traces(folder: Path) -> list[Path]:
    """Return the `.json` and `.json.gz` files that may be traces, sorted by the numbers in their names.

    Raises TraceError if there are none.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.endswith((".json", ".json.gz")) and path.name not in _OTHERS
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
