"""Decode a list of events, and say why it does not decode."""

import re
from typing import Any, NamedTuple

import msgspec

from roseinfer.trace.reading.event_schema import RawEvent

_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

decode_events = msgspec.json.Decoder(list[RawEvent]).decode
decode_any = msgspec.json.Decoder().decode


class DecodedList(NamedTuple):
    """What came of decoding a list: at most one of the fields is set; none is when only its types were wrong."""

    events: list[RawEvent] | None = None
    trailing: int | None = None
    """The position of what follows a list that is complete."""
    incomplete: bool = False
    malformed: bool = False


def decode_list(body: bytes) -> DecodedList:
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
    """Whether msgspec counts bytes from 0 or from 1 in "trailing characters": asked, not assumed."""
    try:
        decode_events(b"[]x")
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        return int(found.group(1)) - 2 if found else 0
    return 0


_TRAILING_BASE = _trailing_base()
