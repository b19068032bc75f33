"""Pictures of README.md: an SVG of a terminal that needs nothing but itself, in sizes that load fast."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import pictures  # noqa: E402
from terminal_svg import THEMES, terminal_svg  # noqa: E402

_SVG = "{http://www.w3.org/2000/svg}"
_OUTPUT = "Verdict\n  \x1b[1;31mHost-bound: <b> & more\x1b[0m\n\n plain \x1b[36m██\x1b[0m  end"


def texts(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{_SVG}text"))


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_the_terminal_shows_command_and_output(theme: str) -> None:
    svg = terminal_svg("roseinfer x", _OUTPUT, 40, theme)
    assert [text.text for text in texts(svg)] == [
        "$ ",
        "roseinfer x",
        "Verdict",
        "Host-bound: <b> & more",
        "plain",
        "██",
        "end",
    ]


def test_colours_and_bold_text_are_kept() -> None:
    headline = texts(terminal_svg("x", _OUTPUT, 40, "light"))[3]
    assert (headline.get("fill"), headline.get("class")) == (THEMES["light"].ansi[1], "b")


def test_text_starts_in_its_column_and_is_as_wide_as_its_columns() -> None:
    drawn = {text.text: text for text in texts(terminal_svg("x", _OUTPUT, 40, "light"))}
    wide = float(drawn["██"].get("textLength", 0)) / 2
    left = float(drawn["Verdict"].get("x", 0))
    for text, column in (("Host-bound: <b> & more", 2), ("plain", 1), ("██", 7), ("end", 11)):
        assert float(drawn[text].get("x", 0)) == pytest.approx(left + column * wide, abs=0.1)
        assert float(drawn[text].get("textLength", 0)) == pytest.approx(len(text) * wide, abs=0.1)


def test_the_terminal_is_still_for_readers_who_prefer_that_and_needs_no_network() -> None:
    svg = terminal_svg("x", _OUTPUT, 40, "dark")
    assert "@media (prefers-reduced-motion:reduce){.line,.cover{animation:none}}" in svg
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|@import|url\((?!#)", svg)


@pytest.mark.parametrize("name", ["summarize-light.svg", "summarize-dark.svg", "report-light.png", "report-dark.png"])
def test_the_pictures_of_the_readme_exist_and_load_fast(name: str) -> None:
    assert 2_000 < (ROOT / "docs" / "images" / name).stat().st_size < 300_000


@pytest.fixture(scope="module")
def printed() -> str:
    return pictures.terminal_output()


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_the_recorded_terminal_shows_what_the_command_prints_today(theme: str, printed: str) -> None:
    recorded = (pictures.IMAGES / f"summarize-{theme}.svg").read_text(encoding="utf-8")
    again = terminal_svg(pictures.COMMAND, printed, pictures.COLUMNS, theme)
    assert recorded == again, "make the pictures again: python docs/pictures.py"


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_the_picture_of_the_report_shows_the_verdict_of_today(theme: str, printed: str) -> None:
    with Image.open(pictures.IMAGES / f"report-{theme}.png") as report:
        assert report.text["Description"] == pictures.described(printed), "make it again: python docs/pictures.py"
