"""Geometry of a flame graph: stacks of Python functions as boxes, callers above what they call."""

from typing import NamedTuple

from roseinfer.cli.rendering.step_drawing import WIDTH, Box, Drawing
from roseinfer.trace.naming import duration
from roseinfer.trace.summary.trace_summary import Summary
from roseinfer.trace.summary.work_structs import StackWork

_ROW = 17.0
_LABEL_PIXELS = 6.0
"""Approximate width of a character, in units of the drawing."""
_CALLS_MODULE = "torch/nn/modules/module.py("
"""Functions between the call of a module and its `forward`, which are left out."""
_LEAST_WIDTH = 0.7
"""Width below which a box is left out."""


class _Node(NamedTuple):
    """A function with the same callers everywhere, and what it calls."""

    ms: list[float]
    """Time of the function with what it calls; a list of one, since it grows."""
    inner: "dict[str, _Node]"


def flame_title(summary: Summary) -> str:
    """Return the title: which time the boxes show, and how much of all of it."""
    rows = [row for row in summary.stacks if row.frames]
    what = "GPU" if summary.gpu else "host"
    return f"Flame graph of {what} time by Python stack, {duration(sum(_self_ms(summary, row) for row in rows))}"


def draw_flame(summary: Summary) -> Drawing | None:
    """Draw the stacks of a summary by GPU time, or by host time without GPU events; None without stacks.

    Functions at the outer end that call only one other, and take all of the time, are left out.
    """
    root = _Node([0.0], {})
    for row in summary.stacks:
        ms = _self_ms(summary, row)
        if row.frames and ms > 0:
            _add(root, row.frames, ms)
    if root.ms[0] <= 0:
        return None
    while len(root.inner) == 1:
        only = next(iter(root.inner.values()))
        if len(only.inner) != 1 or only.ms[0] < root.ms[0]:
            break
        root = only
    boxes: list[Box] = []
    _draw(root, 0.0, 0, WIDTH / root.ms[0], boxes)
    height = max((box.y + box.height for box in boxes), default=0.0)
    return Drawing(height=height, total_ms=root.ms[0], boxes=boxes, ticks=[])


def _self_ms(summary: Summary, row: StackWork) -> float:
    return row.self_gpu_ms if summary.gpu else row.self_host_ms


def _add(root: _Node, frames: list[str], ms: float) -> None:
    node = root
    node.ms[0] += ms
    for frame in frames:
        if _CALLS_MODULE in frame:
            continue
        node = node.inner.setdefault(frame, _Node([0.0], {}))
        node.ms[0] += ms


def _draw(node: _Node, x: float, depth: int, scale: float, boxes: list[Box]) -> None:
    for name, inner in sorted(node.inner.items(), key=lambda item: -item[1].ms[0]):
        width = inner.ms[0] * scale
        if width >= _LEAST_WIDTH:
            fits = int(width / _LABEL_PIXELS) - 1
            label = "" if fits < 3 else _short(name) if len(_short(name)) <= fits else f"{_short(name)[: fits - 1]}…"
            title = f"{name}: {duration(inner.ms[0])}"
            boxes.append(Box(round(x, 2), depth * _ROW, round(width, 2), _ROW - 1, "span", label, title, _short(name)))
            _draw(inner, x, depth + 1, scale, boxes)
        x += width


def _short(name: str) -> str:
    """Return the function of a name with file and line, such as `forward (model.py:12)`."""
    place, separator, function = name.partition("): ")
    if not separator:
        return name
    file, _, line = place.rpartition("(")
    return f"{function} ({file.rpartition('/')[2]}:{line})"
