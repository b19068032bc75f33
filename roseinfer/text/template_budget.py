"""The budget of one rendering of a chat template: steps, characters and time.

Python cannot interrupt an operation such as `"x" * 10**10`. The budget is therefore asked before each operation whose
result can be larger than its operands, and afterwards it is charged for the result.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jinja2.utils import Namespace

MAX_STEPS = 200_000
"""Maximum loop iterations, calls and operators of one rendering, besides `STEPS_PER_MESSAGE`."""
STEPS_PER_MESSAGE = 1_000
MAX_CHARACTERS = 64 << 20
"""Maximum characters and elements that the operations of one rendering go through."""
CHARACTERS_PER_INPUT = 64
"""More of them per character of the messages. A template goes through the messages a few times."""
CHARACTERS_PER_VISIT = 64
"""Characters that count for looking at one element inside a container: that takes much longer than copying one."""
MAX_OUTPUT = 4 << 20
"""Maximum characters of one text, besides `OUTPUT_PER_INPUT` per character of the messages."""
OUTPUT_PER_INPUT = 8
MAX_SECONDS = 10.0
"""Maximum time of one rendering. Templates of published models take milliseconds."""
_MAX_BITS = 4096
"""Maximum bits of an integer."""
_TIME_EVERY = 64
"""Steps between two looks at the clock."""
_WIDE = re.compile(r"[0-9]{5}|\*|\{[^{}]*\{")
"""A width or precision in a format that is large, or that is taken from an argument."""


class TemplateLimitError(Exception):
    """A rendering would exceed a limit. The message names the limit."""


class TemplateBudget:
    """Counts the work of one rendering, and raises TemplateLimitError at a limit."""

    def __init__(self, input_size: int, num_messages: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`input_size` is the number of characters and elements in the messages, see `size_of`."""
        self._max_steps = MAX_STEPS + STEPS_PER_MESSAGE * num_messages
        self._max_characters = MAX_CHARACTERS + CHARACTERS_PER_INPUT * input_size
        self._max_output = MAX_OUTPUT + OUTPUT_PER_INPUT * input_size
        self._clock = clock
        self._ends_s = clock() + MAX_SECONDS
        self._steps = self._characters = self._written = 0

    def step(self) -> None:
        """Count a loop iteration, a call or an operator."""
        self._steps += 1
        if self._steps > self._max_steps:
            raise TemplateLimitError(f"it takes more than {self._max_steps:,} steps")
        if self._steps % _TIME_EVERY == 0 and self._clock() > self._ends_s:
            raise TemplateLimitError(f"it takes more than {MAX_SECONDS:.0f} s")

    def charge(self, value: Any) -> Any:
        """Count a value that was made, with everything inside, and return the value.

        What a container would be as a text has the limit of one text: a list that holds another list twice may be small
        and print without end.
        """
        if isinstance(value, str):
            self.read(value)
            self.expect(len(value))
            return value
        most = (self._max_characters - self._characters) // CHARACTERS_PER_VISIT + 1
        size, visits = _measured(value, self._max_output, most)
        self._count(visits * CHARACTERS_PER_VISIT)
        self.expect(size)
        return value

    def read(self, value: Any) -> None:
        """Count the characters or elements of a value that an operation goes through or copies."""
        self._count(_length(value))

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > self._max_characters:
            raise TemplateLimitError(f"its operations go through more than {self._max_characters:,} characters")

    def write(self, text: str) -> str:
        """Count a part of the output, and return it."""
        self._written += len(text)
        self.expect(self._written)
        return text

    def expect(self, size: int) -> None:
        """Ask for a result of `size` characters or elements before it is made."""
        if size > self._max_output:
            raise self._too_long()

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """Count an operator, and ask for its result."""
        self.step()
        if operator == "%" and isinstance(left, str):
            self.format(left, right)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(right, 0) if operator == "**" else 1)
            if bits + right.bit_length() > _MAX_BITS and operator in ("*", "**", "+", "-"):
                raise TemplateLimitError(f"it computes with integers of more than {_MAX_BITS} bits")
        elif operator == "*":
            count, sequence = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(count, int):
                self.expect(count * self._size(sequence))
        elif operator == "+" and not isinstance(left, (int, float)):
            self.expect(_length(left) + _length(right))
            # The longer operand was charged when it was made. A template that appends to a list is not quadratic so.
            self.charge(min(left, right, key=_length))

    def format(self, template: str, *arguments: Any) -> None:
        """Ask for the result of a format: `%` or `str.format`."""
        if _WIDE.search(template):
            raise TemplateLimitError("it formats with a width of 5 digits or more, or with one from an argument")
        fields = template.count("%") + template.count("{")
        self.expect(len(template) + fields * (sum(map(self._size, arguments)) + 10_000))

    def method(self, owner: Any, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """Ask for the result of a filter, or of a method of a built-in type, on `owner`."""
        values = (*arguments, *options.values())
        for value in values:
            if isinstance(value, int):
                self.expect(abs(value))
        texts = [value for value in values if isinstance(value, str)]
        if name == "replace" and isinstance(owner, str) and len(texts) >= 2:
            self.expect(len(owner) + (owner.count(texts[0]) * len(texts[1])))
        elif name == "join":
            separator, parts = (owner, values[0] if values else ()) if isinstance(owner, str) else ("", owner)
            separator = texts[0] if texts and not isinstance(owner, str) else separator
            self.expect(self._size(parts) + _length(parts) * (len(separator) if isinstance(separator, str) else 0))
        elif name in ("format", "format_map") and isinstance(owner, str):
            self.format(owner, *values)
        elif name == "expandtabs":
            self.expect(_length(owner) * max((abs(value) for value in values if isinstance(value, int)), default=8))
        elif name in ("indent", "tojson"):
            width = max((abs(value) if isinstance(value, int) else len(value) for value in values
                         if isinstance(value, (int, str))), default=0)  # fmt: skip
            lines = owner.count("\n") + 1 if isinstance(owner, str) else self._size(owner)
            self.expect(lines * width)
        elif name in ("wordwrap", "urlize", "xmlattr", "translate"):
            self.expect(self._size(owner) * max(1, *map(self._size, values), 1))

    def _size(self, value: Any) -> int:
        return size_of(value, self._max_output)

    def _too_long(self) -> TemplateLimitError:
        return TemplateLimitError(f"it makes a text or a list of more than {self._max_output:,} characters")


def size_of(value: Any, limit: int) -> int:
    """Return the characters and elements of a value with everything inside, as often as it would be printed.

    A list that holds another list twice counts it twice. Counting ends above `limit`.
    """
    return _measured(value, limit, limit + 1)[0]


def _measured(value: Any, limit: int, max_visits: int) -> tuple[int, int]:
    """Return (`size_of` the value, number of elements that were looked at), counted up to either limit."""
    total, visits, stack = 0, 0, [value]
    while stack and total <= limit and visits < max_visits:
        item = stack.pop()
        visits += 1
        if isinstance(item, Namespace):
            item = object.__getattribute__(item, "_Namespace__attrs")
        if isinstance(item, (str, bytes, range)):
            total += len(item)
        elif isinstance(item, int):
            total += 1 + item.bit_length() // 4
        elif isinstance(item, dict):
            total += len(item)
            stack += (*item.keys(), *item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            total += len(item)
            stack += item
        else:
            total += 1
    return total, visits


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Collection) else 0
