"""Text of strangers on a terminal: control characters are shown, not executed.

Names in a trace, errors and generated text may hold escape sequences, which could hide or forge output, or change the
terminal.
"""

_KEPT = "\n\t"
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Control characters of ASCII and Latin-1, and those that change the direction of text."""
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS if chr(code) not in _KEPT}
_SHOWN |= dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")  # surrogates, which cannot be written


def visible(text: str) -> str:
    """Return the text with control characters as they are escaped in Python, except line breaks and tabs."""
    return text if text.isascii() and text.isprintable() else text.translate(_SHOWN)
