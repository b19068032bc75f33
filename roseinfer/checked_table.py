"""The base of configuration tables: values are checked when a table is made."""

import os
import re
from functools import cache
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from roseinfer.errors import UsageError
from roseinfer.setting_words import invalid_value


class CheckedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table whose values are checked when it is made, also in Python, where msgspec itself checks nothing.

    Raises UsageError, naming the field, for a value that a config file could not set. Paths become texts, and lists
    become tuples.
    """

    def __post_init__(self) -> None:
        plain = _plain_struct(type(self))
        try:
            checked = msgspec.convert(self, plain, from_attributes=True)
        except msgspec.ValidationError:
            checked = self._checked_slowly(plain)
        for name in self.__struct_fields__:
            value = getattr(checked, name)
            if value is not getattr(self, name):
                force_setattr(self, name, value)

    def _checked_slowly(self, plain: type[msgspec.Struct]) -> msgspec.Struct:
        """Return the checked values of a table that has paths, or raise the error about an invalid value."""
        values: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            values[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            return msgspec.convert(values, plain)
        except msgspec.ValidationError as error:
            where = re.search(r"`\$\.(?P<key>\w+)(?:\[(?P<item>\d+)\])?", str(error))
            assert where is not None, "an error about a table names one of its fields"
            key, item = where["key"], None if where["item"] is None else int(where["item"])
            raise UsageError(invalid_value(type(self), key, item, values[key], key)) from None


@cache
def _plain_struct(table: type[CheckedTable]) -> type[msgspec.Struct]:
    """Return a struct of the same fields, into which msgspec converts without calling `__post_init__` again."""
    fields = [(field.name, field.type) for field in msgspec.structs.fields(table)]
    return msgspec.defstruct(table.__name__, fields, frozen=True)
