"""Busy and idle time of each device, and of all devices together."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.idle_gaps import Gaps
from roseinfer.trace.facts.intervals import covered_shares, union
from roseinfer.trace.facts.span_costs import SMALL_NS
from roseinfer.trace.reading.columns import KERNEL, Ints, Trace
from roseinfer.trace.summary.device_structs import DeviceSummary, GpuSummary, IdleByCause
from roseinfer.trace.summary.units import to_ms, to_percent

TIMELINE_BUCKETS = 120


class _Totals(msgspec.Struct):
    """Sums over one or more devices, in ns."""

    window: int = 0
    busy: int = 0
    host_late: int = 0
    launch_call: int = 0
    device_queue: int = 0
    unlinked: int = 0
    events: int = 0
    kernels: int = 0
    linked: int = 0
    small: int = 0
    small_kernels: int = 0
    launches: int = 0
    replayed: int = 0


def summarize_devices(
    trace: Trace, attribution: Attribution, gaps: Gaps
) -> tuple[GpuSummary | None, list[DeviceSummary]]:
    """Return (the total, one entry per device with GPU events); (None, []) without GPU events.

    Recordings of one device in several files (cycles) count as one device. Time between files is not idle time.
    """
    rows: list[DeviceSummary] = []
    everything: list[_Totals] = []
    keys = sorted({(device.rank, device.id) for device in trace.devices})
    for key in keys:
        members = [index for index, device in enumerate(trace.devices) if (device.rank, device.id) == key]
        members = [index for index in members if np.any(trace.gpu.device == index)]
        if not members:
            continue
        totals = _sum([_totals(trace, attribution, gaps, index) for index in members])
        everything.append(totals)
        at = np.isin(trace.gpu.device, members)
        timeline = [share for index in members for share in _timeline(trace, index, TIMELINE_BUCKETS // len(members))]
        fields = _fields(totals, _medians(trace, attribution, at))
        name = trace.devices[members[0]].name
        rows.append(DeviceSummary(id=key[1], rank=key[0], name=name, timeline=timeline, **fields))
    if not rows:
        return None, []
    return GpuSummary(**_fields(_sum(everything), _medians(trace, attribution, slice(None)))), rows


def _totals(trace: Trace, attribution: Attribution, gaps: Gaps, device: int) -> _Totals:
    low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
    start, end = trace.gpu.start_ns[low:high], trace.gpu.end_ns[low:high]
    here = gaps.device == device
    busy_start, busy_end = union(start, end)
    kernel, small = trace.gpu.kind[low:high] == KERNEL, end - start < SMALL_NS
    return _Totals(
        window=int(end.max() - start.min()),
        busy=int((busy_end - busy_start).sum()),
        host_late=int(gaps.host_late_ns[here].sum()),
        launch_call=int(gaps.launch_call_ns[here].sum()),
        device_queue=int(gaps.device_queue_ns[here].sum()),
        unlinked=int(gaps.unlinked_ns[here].sum()),
        events=int(high - low),
        kernels=int(np.count_nonzero(kernel)),
        linked=int(np.count_nonzero(attribution.linked[low:high])),
        small=int(np.count_nonzero(small)),
        small_kernels=int(np.count_nonzero(small & kernel)),
        launches=len(attribution.launches(slice(low, high))),
        replayed=int(np.count_nonzero(attribution.replayed[low:high])),
    )


def _medians(trace: Trace, attribution: Attribution, at: NDArray[np.bool_] | slice) -> dict[str, float]:
    start, linked = trace.gpu.start_ns[at], attribution.linked[at]
    queued = (start - attribution.launch_end_ns[at])[linked]
    return {
        "median_event_us": _median_us(trace.gpu.end_ns[at] - start),
        "median_launch_to_start_us": _median_us(np.maximum(queued, 0)),
    }


def _median_us(values_ns: Ints) -> float:
    return round(float(np.median(values_ns)) / 1000, 3) if len(values_ns) else 0.0


def _sum(parts: Sequence[_Totals]) -> _Totals:
    return _Totals(*(sum(getattr(part, name) for part in parts) for name in _Totals.__struct_fields__))


def _fields(totals: _Totals, medians: dict[str, float]) -> dict[str, Any]:
    return {
        "busy_percent": to_percent(totals.busy, totals.window),
        "window_ms": to_ms(totals.window),
        "busy_ms": to_ms(totals.busy),
        "idle_ms": to_ms(totals.window - totals.busy),
        "idle_by_cause": IdleByCause(
            host_late_ms=to_ms(totals.host_late),
            launch_call_ms=to_ms(totals.launch_call),
            device_queue_ms=to_ms(totals.device_queue),
            unlinked_ms=to_ms(totals.unlinked),
        ),
        "gpu_events": totals.events,
        "kernels": totals.kernels,
        "linked_percent": to_percent(totals.linked, totals.events),
        "small_percent": to_percent(totals.small, totals.events),
        "small_kernels_percent": to_percent(totals.small_kernels, totals.kernels),
        "launches": totals.launches,
        "replayed_percent": to_percent(totals.replayed, totals.events),
        **medians,
    }


def _timeline(trace: Trace, device: int, buckets: int) -> list[float]:
    """Return the busy share, 0 to 1, of each of `buckets` equal parts of the device's window."""
    low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
    start, end = union(trace.gpu.start_ns[low:high], trace.gpu.end_ns[low:high])
    return covered_shares(start, end, int(start[0]), int(end[-1]), buckets)
