"""Cutting a stream of JSON bytes into lists of events, whatever its line breaks, damaged or not.

The list of events is cut at `}, {`. Such a cut may also lie inside a string or a nested object, but then what stands
before it is no complete JSON list and does not decode, so a decode that succeeds proves the cut right.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from roseinfer.errors import TraceError
from roseinfer.trace.reading.byte_source import ByteSource
from roseinfer.trace.reading.damage_recovery import BETWEEN_EVENTS, DamageRecovery, split_events
from roseinfer.trace.reading.event_schema import Metadata, RawEvent
from roseinfer.trace.reading.list_decoding import decode_any, decode_events, decode_list, try_decode

_MAX_HEADER_BYTES = 64 << 20
_MAX_EVENT_BYTES = 16 << 20
_MAX_CUTS = 4
_LIST_START = re.compile(rb'"traceEvents"\s*:\s*\[')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["{}\[\]]', re.DOTALL)
_BREAKS_OFF = "it breaks off inside its list of events"


class EventStream:
    """Lists of events from one file, in file order.

    After the iteration: `metadata`, `damaged` (events that could not be read) and `truncated` (why the file counts
    as broken off, or None). Raises TraceError for a file that is no trace.
    """

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.metadata = Metadata()
        self._recovery = DamageRecovery()
        self.truncated: str | None = None

    @property
    def damaged(self) -> int:
        """Number of events that could not be read."""
        return self._recovery.damaged

    def __iter__(self) -> Iterator[list[RawEvent]]:
        chunks = iter(self.source)
        head, text, bare = self._find_list(chunks)
        while True:
            decoded = self._decode_start(text)
            if decoded is not None:
                events, text, ended = decoded
                yield events
                if ended:
                    self._finish(head, text, chunks, bare)
                    return
            elif len(text) > _MAX_EVENT_BYTES:
                yield self._recovery.events_in(text)
                text = b""
            chunk = next(chunks, None)
            if chunk is None:
                break
            text += chunk
        yield self._tail(head, text, bare)

    def _find_list(self, chunks: Iterator[bytes]) -> tuple[bytes, bytes, bool]:
        """(the metadata before the list, the start of the list's inside, whether the file is a bare list)."""
        text = b""
        for chunk in chunks:
            text += chunk
            start = text[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
            if start and start[:1] not in b"{[":
                break
            if start[:1] == b"[":
                return b"", text[text.index(b"[") + 1 :], True
            found = _LIST_START.search(text, max(0, len(text) - len(chunk) - 256))
            if found:
                return text[: found.start()].removeprefix(b"\xef\xbb\xbf"), text[found.end() :], False
            if len(text) > _MAX_HEADER_BYTES:
                break
        path = self.source.path
        if not text.strip():
            why = self.source.damage
            raise TraceError(f"{path}: not a trace: " + (f"{why}, nothing can be read" if why else "the file is empty"))
        raise TraceError(
            f"{path}: not a trace: no list of traceEvents in it (expected a Chrome trace, .json or .json.gz)"
        )

    def _decode_start(self, text: bytes) -> tuple[list[RawEvent], bytes, bool] | None:
        """(the events that are complete, what remains, whether the list ended); None when none is complete."""
        cut = _last_between(text)
        for _ in range(_MAX_CUTS):
            if cut is None:
                return None
            body = b"".join((b"[", memoryview(text)[:cut], b"]"))
            found = decode_list(body)
            if found.trailing is not None:
                return self._recovery.events_in(_list_inside(body, found.trailing)), text[found.trailing - 1 :], True
            if not found.incomplete:
                events = self._recovery.events_in(text[:cut]) if found.events is None else found.events
                return events, _after(text, cut), False
            cut = _last_between(text[: cut - 1])
        cut = _exact_between(text)
        return None if cut is None else (self._recovery.events_in(text[:cut]), _after(text, cut), False)

    def _tail(self, head: bytes, text: bytes, bare: bool) -> list[RawEvent]:
        """The last events and what follows the list, or what a broken-off file leaves of them."""
        body = b"[" + text
        found = decode_list(body)
        if found.trailing is not None:
            events = self._recovery.events_in(_list_inside(body, found.trailing))
            self._finish(head, text[found.trailing - 1 :], iter(()), bare)
            return events
        if found.events is not None:
            events = found.events
        elif found.malformed or found.incomplete:
            events = self._broken_off(text)
        else:
            events = self._recovery.events_in(text.rstrip().removesuffix(b"]"))
        if not bare and self.truncated is None:
            self.truncated = self.source.damage or _BREAKS_OFF
        self._read_metadata(head, b"}")
        return events

    def _broken_off(self, text: bytes) -> list[RawEvent]:
        """Events of the last piece of a file that ends inside its list; at most the last one is lost."""
        if text.strip():
            self.truncated = self.source.damage or _BREAKS_OFF
        events: list[RawEvent] | None = try_decode(decode_events, b"[" + text.rstrip().removesuffix(b",") + b"]")
        return events if events is not None else self._recovery.events_of(split_events(text)[:-1])

    def _finish(self, head: bytes, rest: bytes, chunks: Iterator[bytes], bare: bool) -> None:
        """Reads what stands behind the list to the end of the file."""
        for chunk in chunks:
            if len(rest) < _MAX_HEADER_BYTES:
                rest += chunk
        self.truncated = self.source.damage
        if not bare:
            self._read_metadata(head, rest)

    def _read_metadata(self, head: bytes, rest: bytes) -> None:
        """Metadata from the object with its events taken out; broken metadata is read from what came before them."""
        for tail in (rest.strip(), b"}"):
            decoded = try_decode(decode_any, head + b'"traceEvents":[]' + tail)
            if isinstance(decoded, dict):
                break
        else:
            return
        fields: dict[str, Any] = {}
        for name in Metadata.__struct_fields__:
            try:
                part = msgspec.convert({name: decoded[name]}, Metadata, strict=False) if name in decoded else None
            except (msgspec.ValidationError, RecursionError):
                continue
            if part is not None:
                fields[name] = getattr(part, name)
        self.metadata = Metadata(**fields)


def _last_between(text: bytes) -> int | None:
    """The position just behind the `}` of the text's last `}, {`."""
    window = 1 << 12
    while True:
        start = max(0, len(text) - window)
        last = None
        for last in BETWEEN_EVENTS.finditer(text, start):  # noqa: B007
            pass
        if last is not None:
            return last.start() + 1
        if start == 0:
            return None
        window *= 8


def _exact_between(text: bytes) -> int | None:
    """What `_last_between` finds, for events that hold lists of objects themselves: slower, by counting brackets."""
    depth, last = 0, None
    for token in _TOKEN.finditer(text):
        kind = token.group()[:1]
        if kind in b"{[":
            depth += 1
        elif kind in b"}]":
            depth -= 1
            if depth < 0:
                break
            if depth == 0 and BETWEEN_EVENTS.match(text, token.start()):
                last = token.end()
        elif len(token.group()) == 1:  # a string that does not end here
            break
    return last


def _after(text: bytes, end: int) -> bytes:
    """What follows a cut, from behind the comma that the cut is made at."""
    return text[text.index(b",", end) + 1 :]


def _list_inside(body: bytes, trailing: int) -> bytes:
    return body[:trailing].rstrip()[1:-1]
