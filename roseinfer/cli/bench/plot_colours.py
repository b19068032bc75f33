"""Colours of plots, and their exchange in an SVG file for a reader's dark mode."""

import re

INK, LINE, PAGE = "#1b1f24", "#d0d7de", "#ffffff"
"""Text and axes, grid, and ground, in light mode."""
SERIES = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#5b4636", "#bf3989", "#57606a")
DARK = {
    INK: "#e6edf3",
    LINE: "#30363d",
    PAGE: "#0d1117",
    "#0969da": "#58a6ff",
    "#bc4c00": "#f0883e",
    "#1a7f37": "#3fb950",
    "#8250df": "#a371f7",
    "#cf222e": "#ff7b72",
    "#5b4636": "#c8a78a",
    "#bf3989": "#f778ba",
    "#57606a": "#8b949e",
}
"""Colour in dark mode for each colour in light mode."""

_PAINT = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")
_START = re.compile(r"<svg\b[^>]*>")


def with_dark_mode(svg: str) -> str:
    """Return an SVG drawing that uses the colours of DARK where the reader prefers dark mode.

    Each colour stays in front of its variable, for viewers that do not know CSS variables.
    """
    start = _START.search(svg)
    if start is None:
        return svg
    body = _PAINT.sub(lambda found: _with_variable(found.group(1), found.group(2)), svg[start.end() :])
    light = "".join(f"{_name(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"{_name(colour)}:{other};" for colour, other in DARK.items())
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme: dark){{svg{{{dark}}}}}</style>"
    return svg[: start.end()] + style + body


def _with_variable(paint: str, colour: str) -> str:
    return f"{paint}: {colour}; {paint}: var({_name(colour)})" if colour in DARK else f"{paint}: {colour}"


def _name(colour: str) -> str:
    return f"--c{colour[1:]}"
