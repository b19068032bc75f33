"""Decode a JSON list of events, or find out why it does not decode."""

import re
from typing import Any, NamedTuple

import msgspec

from roseinfer.trace.reading.event_schema import RawEvent

_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

decode_events = msgspec.json.Decoder(list[RawEvent]).decode
decode_any = msgspec.json.Decoder().decode


class DecodedList(NamedTuple):
    """Result of decoding a list. At most one field is set; none is set if the JSON is valid but a type is wrong."""

    events: list[RawEvent] | None = None
    trailing: int | None = None
    """Position of the first byte after a complete list, if more text follows the list."""
    incomplete: bool = False
    """True if the text ends before the list does."""
    malformed: bool = False
    """True if the text is not JSON."""


def decode_list(body: bytes) -> DecodedList:
    """Decode a list of events that may be incomplete, damaged, or followed by other text."""
    try:
        return DecodedList(events=decode_events(body))
    except msgspec.ValidationError:
        try:
            decode_any(body)
        except _ERRORS as error:
            return _explained(error)
        return DecodedList()
    except _ERRORS as error:
        return _explained(error)


def try_decode(decode: Any, text: bytes) -> Any:
    """Return `decode(text)`, or None if the text does not decode."""
    try:
        return decode(text)
    except _ERRORS:
        return None


def _explained(error: Exception) -> DecodedList:
    found = _TRAILING.search(str(error))
    if found:
        return DecodedList(trailing=int(found.group(1)) - _TRAILING_BASE)
    incomplete = "truncated" in str(error)
    return DecodedList(incomplete=incomplete, malformed=not incomplete)


def _trailing_base() -> int:
    """Return 0 or 1: the number that msgspec's error about trailing characters gives to the first byte.

    It is read from a provoked error, because msgspec does not document it.
    """
    try:
        decode_events(b"[]x")
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        return int(found.group(1)) - 2 if found else 0
    return 0


_TRAILING_BASE = _trailing_base()
