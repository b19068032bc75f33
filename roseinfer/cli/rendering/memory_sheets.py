"""Memory of torch's allocators as sheets, and as the geometry of a plot."""

from typing import NamedTuple

from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, sheet
from roseinfer.trace.naming import byte_size
from roseinfer.trace.summary.memory_structs import DeviceMemory
from roseinfer.trace.summary.trace_summary import Summary

PLOT_WIDTH, PLOT_HEIGHT = 1000.0, 160.0
_PLACES = 5


def memory_sheet(summary: Summary) -> Sheet:
    """Return peak and growth, one row per device."""
    rows = [
        [
            memory_name(row, summary),
            byte_size(row.peak_bytes),
            milliseconds(row.peak_ms),
            byte_size(row.peak_reserved_bytes) if row.peak_reserved_bytes else "",
            byte_size(row.start_bytes),
            byte_size(row.end_bytes),
            "" if row.growth_bytes_per_step is None else byte_size(row.growth_bytes_per_step),
            f"{row.released_blocks:,}",
        ]
        for row in summary.memory
    ]
    columns = ("-Memory", "Peak", "At ms", "Reserved", "At start", "At end", "Per step", "Frees")
    return sheet("Memory in tensors", columns, rows)


def held_sheet(summary: Summary) -> Sheet:
    """Return the places that had allocated the memory of each device's peak."""
    rows = [
        [memory_name(row, summary), held.operator or "", held.file or "", f"{held.tensors:,}", byte_size(held.bytes)]
        for row in summary.memory
        for held in row.at_peak[:_PLACES]
    ]
    rows += [
        [memory_name(row, summary), "(before the recording)", "", "", byte_size(row.before_bytes)]
        for row in summary.memory
        if row.before_bytes
    ]
    columns = ("-Memory", "*Operator", "*Function", "Tensors", "Bytes")
    return sheet("Memory held at the peak, by place of allocation", columns, rows)


def memory_name(row: DeviceMemory, summary: Summary) -> str:
    """Return `GPU 0`, `host`, or the same with the rank in a job of several."""
    name = "host" if row.device is None else f"GPU {row.device}"
    return f"rank {row.rank} {name}" if len(summary.trace.ranks) > 1 else name


class MemoryPlot(NamedTuple):
    """Lines of a plot of memory over time, as the points of SVG polylines."""

    title: str
    allocated: str
    """Outline of the area of the bytes in tensors."""
    reserved: str
    """Line of the bytes that the allocator held; empty if they are not recorded."""
    peak_x: float
    peak_y: float
    top: str
    """Label of the plot's upper edge."""
    first_ms: float
    last_ms: float


def memory_plots(summary: Summary) -> list[MemoryPlot]:
    """Return one plot per device with memory."""
    return [_plot(row, summary) for row in summary.memory if len(row.timeline) > 1 and row.peak_bytes]


def _plot(row: DeviceMemory, summary: Summary) -> MemoryPlot:
    points = row.timeline
    first, last = points[0].ms, points[-1].ms
    most = max(row.peak_bytes, row.peak_reserved_bytes)

    def place(ms: float, size: float) -> tuple[float, float]:
        x = PLOT_WIDTH * (ms - first) / ((last - first) or 1.0)
        return round(min(PLOT_WIDTH, max(0.0, x)), 2), round(PLOT_HEIGHT * (1 - size / most), 2)

    def line(sizes: list[tuple[float, float]]) -> str:
        return " ".join(f"{x},{y}" for x, y in sizes)

    area = [place(one.ms, one.allocated_bytes) for one in points]
    reserved = [place(one.ms, one.reserved_bytes) for one in points] if row.peak_reserved_bytes else []
    peak_x, peak_y = place(row.peak_ms, row.peak_bytes)
    return MemoryPlot(
        title=f"{memory_name(row, summary)}: peak {byte_size(row.peak_bytes)} at {milliseconds(row.peak_ms)} ms",
        allocated=line([(0.0, PLOT_HEIGHT), *area, (PLOT_WIDTH, PLOT_HEIGHT)]),
        reserved=line(reserved),
        peak_x=peak_x,
        peak_y=peak_y,
        top=byte_size(most),
        first_ms=first,
        last_ms=last,
    )
