"""Read what a collective sends from the arguments of its kernel or of the operator `record_param_comms`."""

from typing import Any

from roseinfer.trace.reading.columns import Message
from roseinfer.trace.reading.event_schema import RawArgs

_ITEM_BYTES = {
    "byte": 1,
    "char": 1,
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "half": 2,
    "bfloat16": 2,
    "float16": 2,
    "short": 2,
    "int16": 2,
    "float": 4,
    "float32": 4,
    "int": 4,
    "int32": 4,
    "double": 8,
    "float64": 8,
    "long": 8,
    "int64": 8,
    "complexfloat": 8,
    "complexdouble": 16,
}
"""Bytes per element by the name of torch's scalar type."""


def message_of(args: RawArgs) -> Message:
    """Return what a collective sends; parts that are missing or of a wrong type are left out."""
    elements = max(_count(args.in_elements), _count(args.out_elements))
    return Message(
        operation=_text(args.operation),
        group=_text(args.group),
        ranks=_text(args.group_ranks),
        group_size=_count(args.group_size),
        num_bytes=elements * _ITEM_BYTES.get(_text(args.dtype).lower().removeprefix("c10::"), 0),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _count(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 18:
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < 1 << 60 else 0
