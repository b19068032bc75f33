"""Rule: memory in tensors grows from step to step, until the device has none left."""

from roseinfer.trace.naming import byte_size, duration
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.summary.memory_structs import DeviceMemory, HeldMemory
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace


def find_memory_growth(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the device whose memory grows most; it takes no time, so it saves none."""
    growing = [row for row in judged.memory if row.is_growing]
    if not growing:
        return []
    row = max(growing, key=lambda one: one.end_bytes - one.start_bytes)
    first = row.at_end[0] if row.at_end else None
    sentence = (
        f"Memory in tensors {_of(row)} grows from {byte_size(row.start_bytes)} to {byte_size(row.end_bytes)}"
        f"{_per_step(row)}. Its peak is {byte_size(row.peak_bytes)}, {duration(row.peak_ms)} after the first event."
    )
    if first is not None:
        sentence += f" {_held(first)} is held at the end."
    advice = (
        f"Free what grows{f', from {_place(first)} first' if first else ''}: look for tensors that a list, a cache or "
        "an autograd graph keeps, such as a loss that is added up without item()."
    )
    where = Place(operator=first.operator if first else None, file=first.file if first else None)
    return [FindingMaker(judged, "memory_growth", "memory").make(0.0, where, sentence, advice)]


def _of(row: DeviceMemory) -> str:
    return "of the host" if row.device is None else f"of GPU {row.device}"


def _per_step(row: DeviceMemory) -> str:
    growth = row.growth_bytes_per_step
    return "" if growth is None else f", {byte_size(growth)} per step"


def _held(held: HeldMemory) -> str:
    count = f"{held.tensors:,} allocation{'s' if held.tensors != 1 else ''}"
    return f"{byte_size(held.bytes)} in {count} of {_place(held)}"


def _place(held: HeldMemory) -> str:
    if held.operator and held.file:
        return f"{held.operator} in {held.file}"
    return held.operator or held.file or "code outside operators"
