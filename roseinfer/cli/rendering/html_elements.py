"""Elements that HTML renderings share: the template environment, names and prose with places to break."""

import re
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from roseinfer.cli.rendering.table_sheet import TOTAL, is_rest, is_worse
from roseinfer.cli.rendering.text_wrapping import bound_units
from roseinfer.trace.naming import short_name

_NAME_WIDTH = 64
_AFTER_PART = re.compile(r"(?<=[./,<>(:-])(?=\w)|(?<=[^\W_]_)(?=[^\W_])|(?<=[a-z])(?=[A-Z])")
"""Places in a name at which a line may end: before the next word of an identifier, path or template argument."""
_INSIDE_IDENTIFIER = re.compile(
    r"(?<=[^\W\d_][./:])(?=\w)|(?<=::)(?=\w)|(?<=[^\W\d_]_)(?=[^\W_])|(?<=\d[._/])(?=[^\W\d_])"
)
"""The same in a sentence, but not inside a number."""


@cache
def environment() -> jinja2.Environment:
    """Return the environment of the templates in this folder. Everything that they print is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    made.globals |= {
        "named": named,
        "prose": prose,
        "depth": depth,
        "judged": judged,
        "is_rest": is_rest,
        "total": TOTAL,
    }
    return made


def named(name: str) -> Markup:
    """Return a name of code, shortened, that may break between its parts."""
    return _breakable(short_name(name.strip(), _NAME_WIDTH), _AFTER_PART)


def prose(text: str) -> Markup:
    """Return a sentence in which no number is parted from its unit, and only identifiers longer than a line break."""
    text = bound_units(text).replace(" -> ", " →\N{NO-BREAK SPACE}")
    words = (_breakable(word, _INSIDE_IDENTIFIER) for word in text.split(" "))
    return Markup(" ").join(
        Markup('<span class="id">{}</span>').format(one) if "<wbr>" in one else one for one in words
    )


def depth(name: str) -> Markup:
    """Return the style attribute that indents a name by its leading blanks, two per level."""
    level = (len(name) - len(name.lstrip(" "))) // 2
    return Markup(' style="--depth:{}"').format(level) if level else Markup("")


def judged(change: str) -> str:
    """Return the CSS class of a change: `worse`, `better`, or none."""
    worse = is_worse(change)
    return "" if worse is None else "worse" if worse else "better"


def _breakable(text: str, places: re.Pattern[str]) -> Markup:
    return Markup("<wbr>").join(escape(part) for part in places.split(text))
