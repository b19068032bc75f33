"""Memory of torch's allocators: peak, growth, and the places that hold it."""

from collections import defaultdict

import numpy as np

from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import CPU_MEMORY, Ints, MemoryTable
from roseinfer.trace.summary.memory_structs import DeviceMemory, HeldMemory, MemoryPoint
from roseinfer.trace.summary.units import to_ms

_POINTS = 240
_PLACES = 20
_PARTS = 10
"""Parts of a recording without steps whose least memory is compared."""
_GROWING_SHARE = 0.8
"""Share of the steps or parts in which memory must grow to be called growing."""
_LEAST_GROWTH = 0.02
"""Share of the peak by which memory must grow over the recording to be called growing."""
_LEAST_BYTES = 1 << 20


def summarize_memory(facts: Facts) -> list[DeviceMemory]:
    """Return one row per device with events of its allocator; devices of an accelerator first."""
    table = facts.trace.memory
    rows: list[DeviceMemory] = []
    for device in np.unique(table.device).tolist():
        low, high = np.searchsorted(table.device, (device, device + 1))
        rows.append(_device(facts, device, slice(int(low), int(high))))
    return sorted(rows, key=lambda row: (row.device is None, row.rank, row.device or 0))


def _device(facts: Facts, device: int, which: slice) -> DeviceMemory:
    trace, known = facts.trace, facts.trace.memory_devices[device]
    table = MemoryTable(*(getattr(trace.memory, name)[which] for name in MemoryTable.__struct_fields__))
    held = table.allocated if table.allocated.any() else np.maximum(np.cumsum(table.num_bytes), 0)
    peak = int(held.argmax())
    at_peak, at_end = _held(table, peak), _held(table, len(table) - 1)
    growth, is_growing = _growth(facts, known.file, table, held)
    return DeviceMemory(
        device=None if known.id == CPU_MEMORY else known.id,
        rank=trace.file_ranks[known.file],
        events=len(table),
        start_bytes=max(0, int(held[0] - table.num_bytes[0])),
        end_bytes=int(held[-1]),
        peak_bytes=int(held[peak]),
        peak_ms=to_ms(table.time_ns[peak]),
        peak_reserved_bytes=int(table.reserved.max()),
        growth_bytes_per_step=growth,
        is_growing=is_growing,
        released_blocks=0 if known.id == CPU_MEMORY else _released(facts, known.file),
        at_peak=_places(facts, table, at_peak),
        before_bytes=max(0, int(held[peak] - table.num_bytes[at_peak].sum())),
        at_end=_places(facts, table, at_end),
        timeline=_timeline(table, held),
    )


def _held(table: MemoryTable, last: int) -> Ints:
    """Return the allocations up to the event `last` that no event up to it frees."""
    address = table.address[: last + 1][::-1]
    _, newest = np.unique(address, return_index=True)  # first index in the reversed order
    found = np.sort(last - newest)
    return np.asarray(found[table.num_bytes[found] > 0], np.int64)


def _places(facts: Facts, table: MemoryTable, at: Ints) -> list[HeldMemory]:
    """Return the places of some allocations, those with most bytes first."""
    trace, frames = facts.trace, facts.frames
    thread, time_ns = table.thread[at], table.time_ns[at]
    op = innermost_at(facts.ops, trace.ops.thread, thread, time_ns)
    name = np.append(trace.ops.name, -1)[op]
    frame = innermost_at(frames.forest, frames.thread, thread, time_ns) if len(frames) else np.full(len(at), -1)
    shown = np.append(frames.shown, -1)[frame]
    sums: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for operator, file, size in zip(name.tolist(), shown.tolist(), table.num_bytes[at].tolist(), strict=True):
        row = sums[operator, file]
        row[0] += size
        row[1] += 1
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])[:_PLACES]
    return [
        HeldMemory(
            operator=trace.names[operator] if operator >= 0 else None,
            file=trace.names[file] if file >= 0 else None,
            bytes=size,
            tensors=count,
        )
        for (operator, file), (size, count) in ranked
    ]


def _growth(facts: Facts, file: int, table: MemoryTable, held: Ints) -> tuple[float | None, bool]:
    """Return (growth per step or None, True if memory keeps growing)."""
    ends = np.sort(facts.steps.end_ns[facts.step_file == file])
    if len(ends) >= 3:
        levels = held[np.maximum(np.searchsorted(table.time_ns, ends, side="right") - 1, 0)]
        grown = np.diff(levels)
        # The first step may allocate what stays, such as the state of an optimizer.
        return float(np.median(grown)), _keeps_growing(levels[1:] if len(levels) > 3 else levels, held)
    edges = np.linspace(table.time_ns[0], table.time_ns[-1], _PARTS + 1)
    first = np.searchsorted(table.time_ns, edges[:-1])
    last = np.append(first[1:], len(held))
    least = [int(held[low:high].min()) for low, high in zip(first.tolist(), last.tolist(), strict=True) if high > low]
    return None, len(least) > _PARTS // 2 and _keeps_growing(np.array(least, np.int64), held)


def _keeps_growing(levels: Ints, held: Ints) -> bool:
    grown = np.diff(levels)
    total = int(levels[-1] - levels[0])
    enough = max(_LEAST_BYTES, _LEAST_GROWTH * int(held.max()))
    return total >= enough and float(np.mean(grown > 0)) >= _GROWING_SHARE


def _released(facts: Facts, file: int) -> int:
    """Return the number of calls that return memory to a device."""
    trace = facts.trace
    mine = np.array(trace.thread_files, np.int64)[trace.calls.thread] == file
    frees = rows_named(trace.names, trace.calls.name, lambda name: name in ("cudaFree", "hipFree", "cuMemUnmap"))
    return int(np.count_nonzero(frees & mine))


def _timeline(table: MemoryTable, held: Ints) -> list[MemoryPoint]:
    edges = np.linspace(table.time_ns[0], table.time_ns[-1] + 1, _POINTS + 1)
    last = np.searchsorted(table.time_ns, edges[1:])
    points: list[MemoryPoint] = []
    before = 0
    for index, end in enumerate(last.tolist()):
        edge = edges[index + 1]
        if end > before:
            if before and end - before and last[index - 1] == before and points[-1].ms < to_ms(edges[index]):
                level = MemoryPoint(to_ms(edges[index]), int(held[before - 1]), int(table.reserved[before - 1]))
                points.append(level)  # the level since the last event
            most, reserved = int(held[before:end].max()), int(table.reserved[before:end].max())
            points.append(MemoryPoint(to_ms(edge), most, reserved))
            before = end
    return points
