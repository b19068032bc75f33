"""Draw a terminal session as an SVG file: the command is typed, then its output appears line by line.

The animation is CSS, runs once, and is left out for readers who prefer reduced motion. The file needs no font and no
network: each stretch of text has the width that its columns need, whatever monospaced font the reader has.
"""

from html import escape
from itertools import groupby
from typing import NamedTuple

from rich.color import Color
from rich.text import Text


class Theme(NamedTuple):
    """Colours of a terminal."""

    page: str
    frame: str
    ink: str
    soft: str
    ansi: dict[int, str]
    """Colour per number of the ANSI colours in use."""


THEMES = {
    "light": Theme(
        "#ffffff",
        "#d0d7de",
        "#1b1f24",
        "#57606a",
        {1: "#cf222e", 2: "#1a7f37", 3: "#8a6a00", 4: "#0969da", 5: "#8250df", 6: "#0a6a75"},
    ),
    "dark": Theme(
        "#0d1117",
        "#30363d",
        "#e6edf3",
        "#9da7b3",
        {1: "#ff7b72", 2: "#3fb950", 3: "#e3c341", 4: "#58a6ff", 5: "#a371f7", 6: "#39c5cf"},
    ),
}
_COLUMN, _LINE, _MARGIN, _TOP = 7.8, 18.0, 18.0, 50.0
"""Width of a column, height of a line, empty space at the sides, and height of the title bar."""
_FONT_SIZE = 13
_TYPING_S, _PER_LINE_S = 1.6, 0.06
_PROMPT = "$ "


def terminal_svg(command: str, output: str, columns: int, theme_name: str) -> str:
    """Return an SVG drawing of a terminal that runs `command`, whose `output` may have ANSI colours."""
    theme = THEMES[theme_name]
    lines = [Text.from_ansi(line) for line in output.splitlines()]
    width = columns * _COLUMN + 2 * _MARGIN
    height = _TOP + (len(lines) + 1) * _LINE + _MARGIN
    spoken = escape(f"Terminal: {command}\n" + "\n".join(line.plain for line in lines))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{spoken}</title>",
        f"<style>{_style(len(command))}</style>",
        f'<rect x=".5" y=".5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8" fill="{theme.page}" '
        f'stroke="{theme.frame}"/>',
        *(f'<circle cx="{20 + 18 * index}" cy="20" r="5.5" fill="{theme.frame}"/>' for index in range(3)),
        *_command(command, theme),
    ]
    for number, line in enumerate(lines):
        delay = _TYPING_S + 0.3 + number * _PER_LINE_S
        parts.append(f'<g class="line" style="animation-delay:{delay:.2f}s">')
        parts += _spans(line, _TOP + (number + 1) * _LINE, theme)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _style(typed: int) -> str:
    return (
        f"text{{font:{_FONT_SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "white-space:pre}.b{font-weight:bold}"
        ".line{animation:show .01s both}@keyframes show{from{opacity:0}to{opacity:1}}"
        f".cover{{opacity:0;transform-box:fill-box;animation:type {_TYPING_S}s steps({typed}) both}}"
        "@keyframes type{from{opacity:1;transform:translateX(0)}to{opacity:1;transform:translateX(100%)}}"
        "@media (prefers-reduced-motion:reduce){.line,.cover{animation:none}}"
    )


def _command(command: str, theme: Theme) -> list[str]:
    """Draw the command below a cover that slides off it, one column at a time."""
    start = _MARGIN + len(_PROMPT) * _COLUMN
    wide = len(command) * _COLUMN
    area = f'x="{start:.1f}" y="{_TOP - 14}" width="{wide + 2:.1f}" height="{_LINE}"'
    return [
        f'<clipPath id="typed"><rect {area}/></clipPath>',
        _text(_PROMPT, 0, _TOP, f'fill="{theme.soft}"'),
        _text(command, len(_PROMPT), _TOP, f'fill="{theme.ink}" class="b"'),
        f'<g clip-path="url(#typed)"><rect class="cover" {area} fill="{theme.page}"/></g>',
    ]


def _spans(line: Text, y: float, theme: Theme) -> list[str]:
    """Draw a line as one text element per stretch of equal style, without the blanks at the ends of a stretch."""
    drawn: list[str] = []
    column = 0
    for looks, group in groupby(range(len(line)), lambda index: _looks(line, index, theme)):
        text = line.plain[column : (column := column + len(list(group)))]
        if text.strip():
            start = column - len(text.lstrip())
            drawn.append(_text(text.strip(), start, y, looks))
    return drawn


def _looks(line: Text, index: int, theme: Theme) -> str:
    """Return the attributes of the character at `index`."""
    colour, bold = theme.ink, False
    for span in line.spans:
        if span.start <= index < span.end and not isinstance(span.style, str):
            if span.style.dim:
                colour = theme.soft
            colour = _named(span.style.color, theme) or colour
            bold = bold or bool(span.style.bold)
    return f'fill="{colour}"' + ' class="b"' * bold


def _named(color: Color | None, theme: Theme) -> str | None:
    if color is None or color.number is None:
        return None
    return theme.ansi.get(color.number % 8)


def _text(text: str, column: int, y: float, looks: str) -> str:
    x, wide = _MARGIN + column * _COLUMN, len(text) * _COLUMN
    return f'<text x="{x:.1f}" y="{y:.0f}" textLength="{wide:.1f}" {looks}>{escape(text, quote=False)}</text>'
