"""Compare the GPU time of operators with the least time that the device's peaks allow."""

from roseinfer.trace.device_peaks import known_peaks, peak_flops
from roseinfer.trace.facts.operator_costs import operator_cost
from roseinfer.trace.facts.operator_inputs import ParsedInputs
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.event_schema import Id
from roseinfer.trace.summary.units import to_percent
from roseinfer.trace.summary.work_structs import DevicePeaks, OperatorRoofline

REACHABLE = 0.8
"""Share of a bound that good kernels reach, for the time that an operator could save."""


def peaks_of(trace: Trace) -> DevicePeaks | None:
    """Return the peaks of the devices of a trace; None if they are not known, or if the devices differ."""
    memory = {str(one.id): _whole(one.totalGlobalMem) for one in trace.metadata.deviceProperties}
    found = {known_peaks(device.name, memory.get(str(device.id), 0)) for device in trace.devices}
    return found.pop() if len(found) == 1 else None


def operator_roofline(
    name: str, inputs: ParsedInputs, calls: int, gpu_ms: float, peaks: DevicePeaks | None
) -> OperatorRoofline | None:
    """Return the roofline of all calls of an operator; None if its FLOPs and bytes are not known."""
    cost = operator_cost(name, inputs)
    if cost is None or gpu_ms <= 0:
        return None
    flops, num_bytes = float(cost.flops * calls), float(cost.num_bytes * calls)
    rate = peak_flops(peaks, cost.dtype) if peaks is not None and cost.flops else None
    if peaks is None or (cost.flops and rate is None):
        return OperatorRoofline(flops=flops, bytes=num_bytes, bound=None, bound_ms=None, percent=None, saves_ms=None)
    compute_ms = 1000 * flops / rate if rate is not None else 0.0
    memory_ms = num_bytes / peaks.tb_per_s / 1e9
    bound_ms = max(compute_ms, memory_ms)
    return OperatorRoofline(
        flops=flops,
        bytes=num_bytes,
        bound="compute" if compute_ms >= memory_ms else "memory",
        bound_ms=round(bound_ms, 6),
        percent=to_percent(bound_ms, gpu_ms),
        saves_ms=round(max(0.0, gpu_ms - bound_ms / REACHABLE), 6),
    )


def _whole(value: Id) -> int:
    try:
        return int(value or 0)
    except (ValueError, OverflowError):
        return 0
