"""Conditions of a recording that must agree before two traces are compared: device, model, profiler options."""

from datetime import UTC, datetime

import msgspec

from roseinfer.disturbance import WAITING_PERCENT, waiting_percent
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.event_schema import Metadata
from roseinfer.trace.reading.trace_manifest import ManifestHost, ManifestVersions, TraceManifest
from roseinfer.trace.summary.device_structs import DeviceSummary
from roseinfer.trace.summary.trace_summary import Recording


def recording_of(trace: Trace, manifest: TraceManifest | None, devices: list[DeviceSummary]) -> Recording:
    """Return device, software, model and profiler options, from the trace and its manifest; None for unknown ones."""
    gpus = sorted({device.name for device in devices if device.name})
    known = manifest or TraceManifest()
    head, asked = trace.metadata, known.config.profile
    return Recording(
        device=", ".join(gpus) if devices else known.device,
        platform=trace.platform if devices else None,
        recorded_at=_utc(trace.started_unix_ns),
        versions=_versions(head, known.versions),
        model=known.model.name,
        dtype=known.model.dtype,
        quantize=known.config.engine.quantize,
        with_stack=bool(head.with_stack or asked.with_stack or trace.counts.python_functions),
        profile_memory=bool(head.profile_memory or asked.profile_memory),
        record_shapes=bool(head.record_shapes or asked.record_shapes),
        waiting_percent=_waiting(known.host),
    )


def was_disturbed(recording: Recording) -> bool:
    """Return whether other programs slowed a run down, so that its times say little about its code."""
    return recording.waiting_percent is not None and recording.waiting_percent >= WAITING_PERCENT


def _waiting(host: ManifestHost | None) -> float | None:
    if host is None or host.threads_waiting is None:
        return None
    return round(waiting_percent(host.threads_waiting, host.threads, host.cores), 1)


def _utc(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions(head: Metadata, manifest: ManifestVersions) -> dict[str, str]:
    """Return the versions in the manifest, and those of CUDA, ROCm and NCCL in the trace."""
    cuda, hip, nccl = (
        _whole(value)
        for value in (head.cuda_runtime_version, head.hip_runtime_version, head.distributedInfo.get("nccl_version"))
    )
    found: dict[str, str | None] = {
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else None,
        "rocm": f"{hip // 10_000_000}.{hip // 100_000 % 100}" if isinstance(hip, int) else None,
        "nccl": nccl if isinstance(nccl, str) else None,
    }
    found |= {name: value for name, value in msgspec.structs.asdict(manifest).items() if value}
    return {name: value for name, value in found.items() if value}


def _whole(value: object) -> int | str | None:
    """Return a positive whole number as such, also if written as a string; a non-empty string; None otherwise."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else value or None
    return value if isinstance(value, int) and value > 0 else None
