"""Colours of HTML renderings meet WCAG 2 AA, in light and in dark mode."""

import re
from pathlib import Path

import pytest

import roseinfer
from roseinfer.cli.rendering.budget_sheets import PARTS

_RENDERING = Path(roseinfer.__file__).parent / "cli" / "rendering"
_STYLE = (_RENDERING / "report_style.css").read_text()
_COLOURS = dict(re.findall(r"--(\w[\w-]*): light-dark\((#\w{6}, #\w{6})\);", _STYLE))
_GROUNDS = ("page", "panel")
_TEXTS = ("ink", "soft", "better", "worse")
_TEXT_RATIO, _GRAPHIC_RATIO = 4.5, 3.0
"""Minimum contrast of text of normal size, and of parts of a graphic that carry meaning."""


def _colour(name: str, mode: str) -> str:
    light, dark = _COLOURS[name].split(", ")
    return light if mode == "light" else dark


def _luminance(colour: str) -> float:
    """Return the relative luminance as WCAG defines it."""
    channels = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio, from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula_agrees_with_known_ratios() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("ground", _GROUNDS)
def test_text_is_readable(mode: str, ground: str) -> None:
    ratios = {text: contrast(_colour(text, mode), _colour(ground, mode)) for text in _TEXTS}
    assert min(ratios.values()) >= _TEXT_RATIO, ratios


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_parts_of_the_budget_stand_out_and_their_labels_are_readable(mode: str) -> None:
    page = _colour("page", mode)
    labelled = {part.key: contrast(_colour(part.key, mode), page) for part in PARTS if part.key != "not_recorded"}
    assert min(labelled.values()) >= _TEXT_RATIO, labelled  # the label on a part has the colour of the page
    assert contrast(_colour("not_recorded", mode), page) >= _GRAPHIC_RATIO


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_spans_of_the_timeline_are_readable(mode: str) -> None:
    assert contrast(_colour("ink", mode), _colour("span", mode)) >= _TEXT_RATIO
    assert contrast(_colour("span-edge", mode), _colour("page", mode)) >= _GRAPHIC_RATIO


def test_every_part_of_the_budget_has_a_colour_of_its_own() -> None:
    for mode in ("light", "dark"):
        colours = [_colour(part.key, mode) for part in PARTS]
        assert len(set(colours)) == len(colours)
    for part in PARTS:
        assert f".roseinfer .{part.key} {{ background:" in _STYLE


def test_every_colour_is_a_variable_with_a_light_and_a_dark_value() -> None:
    assert set(re.findall(r"var\(--(\w[\w-]*)", _STYLE)) - {"depth"} <= set(_COLOURS)
    outside = re.sub(r"light-dark\([^)]*\)", "", _STYLE)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", outside)


def test_the_style_applies_to_nothing_else_in_a_notebook() -> None:
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", re.sub(r"@media[^{]*\{", "", _STYLE))
    selectors = [one.strip() for rule in rules for one in rule.split(",")]
    assert [one for one in selectors if ".roseinfer" not in one] == []
