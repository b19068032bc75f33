"""Output in encodings that lack some characters, such as ASCII: a result is never lost to its "±"."""

import codecs
import sys
from contextlib import suppress

_HANDLER = "roseinfer-plain"
_PLAIN = str.maketrans(
    {
        "±": "+-",
        "\N{MULTIPLICATION SIGN}": "x",
        "µ": "u",
        "μ": "u",
        "…": "...",
        "\N{EN DASH}": "-",
        "—": "-",
        "\N{MINUS SIGN}": "-",
        "→": "->",
        "≥": ">=",
        "≤": "<=",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "“": '"',
        "”": '"',
        "•": "*",
        "·": ".",
        "█": "#",
        "─": "-",
        "━": "-",
        "▁": "_",
        "▂": ".",
        "▃": "-",
        "▄": "=",
        "▅": "+",
        "▆": "*",
        "▇": "#",
        "▌": "|",
        "░": ".",
        "▒": ":",
        "▓": "#",
    }
)
"""Typographic characters of our tables and charts, in ASCII."""


def replace_missing_characters() -> None:
    """Let stdout and stderr write characters that their encoding lacks in ASCII, or as a backslash sequence."""
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # not a text stream of Python's own, or a closed one
            stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    plain = missing.translate(_PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end
