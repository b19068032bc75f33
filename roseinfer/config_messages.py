"""Messages about invalid settings: the setting as the user wrote it, its value, and the values that are allowed."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from roseinfer.config import RunConfig
from roseinfer.model_files import shortened
from roseinfer.setting_words import invalid_value, listed, shown_value

Naming = Callable[[str, str], str]
"""Spells a setting, given (table, key), as the user wrote it: `--top-k`, `sampling.top_k` or `top_k`."""

_OPTION_NAMES = {
    ("sampling", "stop_token_ids"): "--stop-token-id",
    ("workload", "prompts"): "--prompt",
    ("workload", "seed"): "--workload-seed",
}
"""Command-line options whose name differs from their key with dashes."""

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
        known = list(_struct_of(table).__struct_fields__)
        return f"unknown key {dotted_key(table, shortened(unknown[1] or unknown[2]))}; known keys: {listed(known)}"
    if not key:
        return f"invalid {table} {shown_value(raw.get(table))}: write a table, [{table}]" if table else str(error)
    where = _WHERE.search(str(error))
    item = int(where["item"]) if where is not None and (where["item"] or "").isdecimal() else None
    return invalid_value(_struct_of(table), key, item, raw[table][key], name(table, key))


def _struct_of(table: str) -> type[msgspec.Struct]:
    """Return the struct of a table of the configuration; for the empty name, that of the tables themselves."""
    if not table:
        return RunConfig
    return type(getattr(RunConfig(), table))
