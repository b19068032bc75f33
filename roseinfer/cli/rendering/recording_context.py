"""The context of a result in one line: device, model, versions, date; and the command that printed it."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from roseinfer.trace.naming import counted
from roseinfer.trace.summary.trace_summary import Recording, Summary

_NAMES = {"roseinfer": "roseinfer", "torch": "torch", "cuda": "CUDA", "rocm": "ROCm", "nccl": "NCCL"}
"""Versions to show, with their usual spelling. Python and Triton rarely explain a difference."""


def recording_parts(recording: Recording, num_devices: int = 1) -> list[str]:
    """Return device, model, versions and time of a recording, those that are known."""
    device = recording.device or ""
    if device and num_devices > 1 and "," not in device:
        device = f"{num_devices} x {device}"
    quantized = "" if recording.quantize in (None, "auto", "none") else f"quantized to {recording.quantize}"
    at = recorded_time(recording.recorded_at)
    parts = [device, recording.model, recording.dtype, quantized, *version_parts(recording.versions.items())]
    return [part for part in (*parts, f"recorded {at}" if at else "") if part]


def version_parts(versions: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return names and versions of the software that explains speed, such as `torch 2.13.0`."""
    known = dict(versions)
    return [f"{shown} {known[name]}" for name, shown in _NAMES.items() if known.get(name)]


def recorded_time(iso: str | None) -> str:
    """Return a UTC time for people, such as `2026-11-22 20:06 UTC`; an empty string for None."""
    return "" if iso is None else f"{iso[:10]} {iso[11:16]} UTC"


def context_parts(summary: Summary) -> list[str]:
    """Return the recording's context, and the size of the trace."""
    size = [counted(summary.trace.events, "event")]
    if len(summary.trace.ranks) > 1:
        size.append(counted(len(summary.trace.ranks), "rank"))
    return [*recording_parts(summary.recording, len(summary.devices)), *size]


def remarks(summary: Summary) -> list[tuple[str, str]]:
    """Return (kind, sentence) of everything to know before the figures are believed: doubts and missing records."""
    doubts = [(doubt.level, doubt.message) for doubt in summary.trust]
    said = " ".join(message for _, message in doubts)
    missing = [("missing", one.what) for one in summary.completeness.missing if one.what not in said]
    return [*doubts, *missing]


def typed_command() -> str:
    """Return the command line of this process, as it can be typed into a shell."""
    return shlex.join(["roseinfer", *sys.argv[1:]])


def trace_name(summary: Summary) -> str:
    """Return the name of the trace's file, or of its folder."""
    return Path(summary.trace.path).name or summary.trace.path
