"""Messages about invalid settings: the setting as the user wrote it, its value, and the values that are allowed."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import msgspec
from msgspec import inspect

from roseinfer.config import RunConfig

Naming = Callable[[str, str], str]
"""Spells a setting, given (table, key), as the user wrote it: `--top-k`, `sampling.top_k` or `top_k`."""

_OPTION_NAMES = {
    ("sampling", "stop_token_ids"): "--stop-token-id",
    ("workload", "prompts"): "--prompt",
    ("workload", "seed"): "--workload-seed",
}
"""Command-line options whose name differs from their key with dashes."""

_LONGEST_VALUE = 60
"""Maximum characters of an invalid value that a message shows."""

_WHERE = re.compile(r" - at (?:`key` in )?`\$\.?(?P<table>\w*)\.?(?P<key>\w*)(?:\[(?P<item>.*?)\])?")
"""End of a msgspec message: the path of the invalid value, such as `$.sampling.stop_token_ids[0]`."""


def option_name(table: str, key: str) -> str:
    """Return the command-line option that sets a key."""
    return _OPTION_NAMES.get((table, key), f"--{key.replace('_', '-')}")


def dotted_key(table: str, key: str) -> str:
    """Return the name of a setting in a TOML file: `table.key`, or one of the two if the other is empty."""
    return f"{table}.{key}".strip(".")


def setting_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return (table, key) of the invalid setting; key is empty if the whole table is invalid."""
    where = _WHERE.search(str(error))
    return (where["table"], where["key"]) if where is not None else ("", "")


def invalid_setting(error: msgspec.ValidationError, raw: Mapping[str, Any], name: Naming) -> str:
    """Return one line that says which setting of `raw` ({table: {key: value}}) is invalid, and what to give instead."""
    table, key = setting_of(error)
    unknown = re.match("Object contains unknown field `(.*)` - at |Object contains unknown field `(.*)`$", str(error))
    if unknown is not None:
        known = [field.name for field in _fields_of(table)]
        return f"unknown key {dotted_key(table, unknown[1] or unknown[2])}; known keys: {listed(known)}"
    if not key:
        return f"invalid {table} {_shown(raw.get(table))}: write a table, [{table}]" if table else str(error)
    where = _WHERE.search(str(error))
    value, kind = raw[table][key], next(field.type for field in _fields_of(table) if field.name == key)
    setting = name(table, key)
    if isinstance(kind, inspect.LiteralType):
        return f"invalid {setting} {_shown(value)}: give one of {listed(_choices(table, key))}"
    if where is not None and (where["item"] or "").isdecimal() and isinstance(kind, inspect.VarTupleType):
        value, kind = list(value)[int(where["item"])], kind.item_type
        setting += "" if setting.startswith("--") else f"[{where['item']}]"
    return f"invalid {setting} {_shown(value)}: give {_allowed(kind, value)}"


def listed(names: Iterable[str]) -> str:
    """Return the names with commas between them, or "none"."""
    return ", ".join(names) or "none"


def _fields_of(table: str) -> tuple[inspect.Field, ...]:
    """Return the fields of a table of the configuration; for the empty name, the tables themselves."""
    struct = inspect.type_info(RunConfig)
    assert isinstance(struct, inspect.StructType)
    if table:
        struct = next(field.type for field in struct.fields if field.name == table)
    return struct.fields if isinstance(struct, inspect.StructType) else ()


def _choices(table: str, key: str) -> tuple[str, ...]:
    """Return the allowed words of a setting, in the order of declaration; msgspec's type information sorts them."""
    fields = msgspec.structs.fields(getattr(RunConfig(), table))
    return get_args(next(field.type for field in fields if field.name == key))


def _shown(value: Any) -> str:
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
            return f"a list, each item {_allowed(kind.item_type, None)}"
        case inspect.DictType():
            return "a table of token ids and numbers"
        case _:
            return "a text"


def _range(kind: inspect.IntType | inspect.FloatType, value: Any) -> str:
    """Return the bounds of a number in words.

    The upper bound of integers, 64 bits, is included only if `value` exceeds it.
    """
    low = f"above {kind.gt}" if kind.gt is not None else f"of at least {kind.ge}" if kind.ge is not None else ""
    is_obvious = isinstance(kind, inspect.IntType) and not (isinstance(value, int) and value > (kind.le or value))
    high = "" if kind.le is None or is_obvious else f"at most {kind.le}"
    return " and ".join(bound for bound in (low, high) if bound)
