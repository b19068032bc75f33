"""Number things in the order in which they are first seen."""

from typing import Any


class Interner(dict[Any, int]):
    """A dict that gives each new key the next number, from 0 on."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number
