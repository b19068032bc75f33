"""HTML of results in notebooks.

Results are structs at the bottom of the layers, and what renders them is at the top. It is found by its name when a
notebook asks, so that results import no renderer.
"""

from importlib import import_module

_VIEWS = "roseinfer.cli.notebook_views"


def notebook_html(result: object) -> str:
    """Return a result as HTML for the output of a notebook cell; for `_repr_html_` of the result's class."""
    html: str = import_module(_VIEWS).html_of(result)
    return html


def short_repr(name: str, facts: str, text: str, width: int = 79) -> str:
    """Return `name(facts, 'text')` in at most `width` characters, by cutting the text; `facts` is never cut."""
    for length in range(min(len(text), width), -1, -1):
        shown = text if length == len(text) else f"{text[:length]}…"
        line = f"{name}({facts}, {shown!r})"
        if len(line) <= width:
            break
    return line
