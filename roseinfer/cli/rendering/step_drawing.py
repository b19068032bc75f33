"""Geometry of the drawings in a report: the timeline of a typical step, and the busy share of a device over time."""

from typing import NamedTuple

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.device_structs import DeviceSummary
from roseinfer.trace.summary.step_structs import Segment, StepBusy, TypicalStep

WIDTH = 1000.0
"""Width of a drawing, in its own units."""
_ROW = 22.0
"""Height of a row."""
_LABEL_PIXELS = 6.2
"""Approximate width of a character, in units of the drawing."""


class Box(NamedTuple):
    """A rectangle with its CSS class, its label, and the text that appears under the pointer."""

    x: float
    y: float
    width: float
    height: float
    css: str
    label: str
    title: str
    name: str | None = None
    """Label of a box with room for it; None for a box that has no label at any width."""


class Drawing(NamedTuple):
    """Boxes and ticks of a timeline."""

    height: float
    total_ms: float
    """Time from the left edge to the right edge."""
    boxes: list[Box]
    ticks: list[tuple[float, str]]


def draw_step(step: TypicalStep) -> Drawing:
    """Draw one step from top to bottom: spans by depth, busy time and events per GPU, longest gaps by cause."""
    end_us = step.end_us or 1.0
    scale = WIDTH / end_us
    boxes = [_box(segment, "span", 0.0, scale) for segment in step.spans]
    top = (max((segment.row for segment in step.spans), default=-1) + 1) * _ROW + 6
    for device in step.busy:
        boxes += _bars(device, top)
        top += _ROW
        boxes += [_box(segment, "event", top, scale) for segment in device.events]
        top += (max((segment.row for segment in device.events), default=-1) + 1) * _ROW + 3
    boxes += [_box(segment, "gap", top, scale) for segment in step.gaps]
    top += _ROW * bool(step.gaps)
    ticks = [(index * WIDTH / 5, f"{index * end_us / 5000:.1f} ms") for index in range(6)]
    return Drawing(height=top, total_ms=end_us / 1000, boxes=boxes, ticks=ticks)


def draw_timeline(device: DeviceSummary) -> list[tuple[float, float, float]]:
    """Return (x, width, busy share) for each part of the device's window."""
    size = WIDTH / max(1, len(device.timeline))
    return [(round(index * size, 2), round(size, 2), share) for index, share in enumerate(device.timeline)]


def _box(segment: Segment, css: str, top: float, scale: float) -> Box:
    width = max(0.5, (segment.end_us - segment.start_us) * scale)
    fits = int(width / _LABEL_PIXELS) - 1
    name = segment.name
    cut = f"…{name[-fits + 1 :]}" if css == "span" else f"{name[: fits - 1]}…"  # spans often begin with one package
    label = name if len(name) <= fits else cut if fits >= 6 else ""
    if css == "gap":
        css = f"gap {name.replace(' ', '-')}"
    return Box(
        x=round(segment.start_us * scale, 2),
        y=top + segment.row * _ROW,
        width=round(width, 2),
        height=_ROW - 3,
        css=css,
        label="" if css.startswith("gap") else label,
        title=f"{name}: {duration((segment.end_us - segment.start_us) / 1000)}",
        name=None if css.startswith("gap") else name,
    )


def _bars(device: StepBusy, top: float) -> list[Box]:
    """Draw a bar per part of the step, as high as the device's busy share."""
    size, full = WIDTH / max(1, len(device.shares)), _ROW - 3
    return [
        Box(
            x=round(index * size, 2),
            y=round(top + full * (1 - share), 2),
            width=round(size, 2),
            height=round(full * share, 2),
            css="busy",
            label="",
            title=f"{device.name}: {100 * share:.1f} % busy",
        )
        for index, share in enumerate(device.shares)
        if share > 0
    ]
