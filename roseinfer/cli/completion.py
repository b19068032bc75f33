"""Values that the shell completes, for options whose values Typer does not know from their type.

Where nothing matches, the shell completes file names.
"""

from collections.abc import Callable, Iterable

Completion = Callable[[str], list[str]]
"""Returns the values that start with what the user has typed."""


def complete_config(incomplete: str) -> list[str]:
    """Complete the name of a shipped config."""
    from roseinfer.config_file import shipped_configs

    return _matching(shipped_configs(), incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Complete the demo model or a built-in shape."""
    from roseinfer.config import DEMO_MODEL
    from roseinfer.models.shapes import SHAPES

    return _matching([DEMO_MODEL, *SHAPES], incomplete)


def completes(*values: str) -> Completion:
    """Return a function that completes one of these values."""

    def complete(incomplete: str) -> list[str]:
        return _matching(values, incomplete)

    return complete


def completes_list(*values: str) -> Completion:
    """Return a function that completes the last of several values with commas between them."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + value for value in _matching(values, last)]

    return complete


def _matching(values: Iterable[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
