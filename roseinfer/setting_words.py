"""Words about one invalid setting: its value as the user wrote it, and the values that are allowed."""

from collections.abc import Iterable
from typing import Any, get_args

import msgspec
from msgspec import inspect

_LONGEST_VALUE = 60
"""Maximum characters of an invalid value that a message shows."""


def invalid_value(table: type[msgspec.Struct], key: str, item: int | None, value: Any, setting: str) -> str:
    """Return one line that says that `value` is invalid for a field of a table, and what to give instead.

    `setting` spells the field as the user wrote it. `item` is the place of the invalid item in a list; None if the
    value as a whole is invalid.
    """
    declared = next(field.type for field in msgspec.structs.fields(table) if field.name == key)
    kind = inspect.type_info(declared)
    if isinstance(kind, inspect.LiteralType):  # its own list of choices is sorted, not in the order of declaration
        return f"invalid {setting} {shown_value(value)}: give one of {listed(get_args(declared))}"
    if item is not None and isinstance(kind, inspect.VarTupleType):
        value, kind = list(value)[item], kind.item_type
        setting += "" if setting.startswith("--") else f"[{item}]"
    return f"invalid {setting} {shown_value(value)}: give {_allowed(kind, value)}"


def listed(names: Iterable[str]) -> str:
    """Return the names with commas between them, or "none"."""
    return ", ".join(names) or "none"


def shown_value(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _allowed(kind: inspect.Type, value: Any) -> str:
    """Return the values that a type allows, in words."""
    match kind:
        case inspect.UnionType():
            return " or ".join(_allowed(part, value) for part in kind.types if not isinstance(part, inspect.NoneType))
        case inspect.IntType():
            return f"an integer {_range(kind, value)}"
        case inspect.FloatType():
            return f"a number {_range(kind, value)}".rstrip()
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType():
            return f"a list{_length(kind, value)}, each item {_allowed(kind.item_type, None)}"
        case inspect.DictType():
            return f"a table of {_length(kind, value).removeprefix(' of ')} token ids and finite numbers".replace(
                "  ", " "
            )
        case inspect.StrType() if _length(kind, value):
            return f"a text{_length(kind, value)} characters"
        case _:
            return "a text"


def _length(kind: inspect.VarTupleType | inspect.DictType | inspect.StrType, value: Any) -> str:
    """Return " of at most N" if `value` is longer than N, the limit of the type; else an empty text."""
    is_longer = kind.max_length is not None and hasattr(value, "__len__") and len(value) > kind.max_length
    return f" of at most {kind.max_length}" if is_longer else ""


def _range(kind: inspect.IntType | inspect.FloatType, value: Any) -> str:
    """Return the bounds of a number in words.

    The upper bound of integers, 64 bits, is included only if `value` exceeds it.
    """
    low = f"above {kind.gt}" if kind.gt is not None else f"of at least {kind.ge}" if kind.ge is not None else ""
    is_obvious = isinstance(kind, inspect.IntType) and not (isinstance(value, int) and value > (kind.le or value))
    high = "" if kind.le is None or is_obvious else f"at most {kind.le}"
    return " and ".join(bound for bound in (low, high) if bound)
