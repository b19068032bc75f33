"""Conditions of a recording that must agree before two traces are compared: device, model, profiler options."""

from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.trace_manifest import TraceManifest
from roseinfer.trace.summary.device_structs import DeviceSummary
from roseinfer.trace.summary.trace_summary import Recording


def recording_of(trace: Trace, manifest: TraceManifest | None, devices: list[DeviceSummary]) -> Recording:
    """Return device, model and profiler options, from the trace and its manifest; None for unknown ones."""
    gpus = sorted({device.name for device in devices if device.name})
    known = manifest or TraceManifest()
    head, asked = trace.metadata, known.config.profile
    return Recording(
        device=", ".join(gpus) if devices else known.device,
        model=known.model.name,
        dtype=known.model.dtype,
        quantize=known.config.engine.quantize,
        with_stack=bool(head.with_stack or asked.with_stack or trace.counts.python_functions),
        profile_memory=bool(head.profile_memory or asked.profile_memory),
        record_shapes=bool(head.record_shapes or asked.record_shapes),
    )
