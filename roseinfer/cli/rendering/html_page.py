"""A trace summary as a self-contained HTML page without scripts or network access, for light and dark mode."""

from pathlib import Path
from typing import NamedTuple

import jinja2

from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.trace.naming import counted, duration, short_name
from roseinfer.trace.summary.device_structs import DeviceSummary
from roseinfer.trace.summary.step_structs import Segment, StepBusy, TypicalStep
from roseinfer.trace.summary.trace_summary import Summary

_TEMPLATE = Path(__file__).with_name("html_page.html.j2")
_TOP = 20  # rows of the top operators, per device
_WIDTH = 1000.0  # of a drawing, in its own units
_ROW = 22.0  # height of a row
_LABEL_PIXELS = 6.2
"""Approximate width of a character, in units of the drawing."""


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    css: str
    label: str
    title: str


class _Drawing(NamedTuple):
    height: float
    boxes: list[_Box]
    ticks: list[tuple[float, str]]


def to_html(summary: Summary) -> str:
    """Return the summary as an HTML page, with the same tables as on the terminal."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        summary=summary,
        sheets=all_sheets(summary, _TOP, "self"),
        step=_draw_step(summary.typical_step) if summary.typical_step else None,
        devices=[(device, _draw_timeline(device)) for device in summary.devices],
        short=lambda name: short_name(name, 64),
        counted=counted,
        width=_WIDTH,
    )


def _draw_step(step: TypicalStep) -> _Drawing:
    """Draw one step from top to bottom: spans by depth, busy time per GPU, longest gaps by cause."""
    end_us = step.end_us or 1.0
    scale = _WIDTH / end_us
    boxes = [_box(segment, "span", 0.0, scale) for segment in step.spans]
    top = (max((segment.row for segment in step.spans), default=-1) + 1) * _ROW + 6
    for device in step.busy:
        boxes += _bars(device, top)
        top += _ROW + 3
    boxes += [_box(segment, "gap", top, scale) for segment in step.gaps]
    top += _ROW * bool(step.gaps)
    ticks = [(index * _WIDTH / 5, f"{index * end_us / 5000:.1f} ms") for index in range(6)]
    return _Drawing(height=top, boxes=boxes, ticks=ticks)


def _box(segment: Segment, css: str, top: float, scale: float) -> _Box:
    width = max(0.5, (segment.end_us - segment.start_us) * scale)
    fits = int(width / _LABEL_PIXELS) - 1
    name = segment.name
    label = name if len(name) <= fits else f"…{name[-fits + 1 :]}" if fits >= 6 else ""
    if css == "gap":
        css = f"gap {name.replace(' ', '-')}"
    return _Box(
        x=round(segment.start_us * scale, 2),
        y=top + segment.row * _ROW,
        width=round(width, 2),
        height=_ROW - 3,
        css=css,
        label="" if css.startswith("gap") else label,
        title=f"{name}: {duration((segment.end_us - segment.start_us) / 1000)}",
    )


def _bars(device: StepBusy, top: float) -> list[_Box]:
    """Draw a bar per part of the step, as high as the device's busy share."""
    size, full = _WIDTH / max(1, len(device.shares)), _ROW - 3
    return [
        _Box(
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


def _draw_timeline(device: DeviceSummary) -> list[tuple[float, float, float]]:
    """Return (x, width, busy share) for each part of the device's window."""
    size = _WIDTH / max(1, len(device.timeline))
    return [(round(index * size, 2), round(size, 2), share) for index, share in enumerate(device.timeline)]
