"""Cut a stream of JSON bytes into lists of events, without relying on line breaks.

The stream is cut at `}, {`. Such a place may also be inside a string or a nested object. The text before it then is
no complete JSON list and fails to decode, so a decode that succeeds proves that the cut is between two events.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from roseinfer.errors import TraceError
from roseinfer.trace.reading.byte_source import ByteSource
from roseinfer.trace.reading.damage_recovery import BETWEEN_EVENTS, DamageRecovery, split_events
from roseinfer.trace.reading.event_schema import Metadata, RawEvent
from roseinfer.trace.reading.foreign_files import SNIFFED_BYTES, foreign_message, name_foreign
from roseinfer.trace.reading.list_decoding import decode_any, decode_events, decode_list, try_decode

_MAX_HEADER_BYTES = 64 << 20
"""Maximum bytes read in search of the list of events, and maximum bytes of metadata read after the list."""
_MAX_EVENT_BYTES = 16 << 20
"""Maximum bytes that are collected while no event is complete; beyond that, the text counts as damaged."""
_MAX_CUTS = 4
"""Maximum cuts tried, from the end of the text, before brackets are counted to find one."""
_LIST_START = re.compile(rb'"traceEvents"\s*:\s*\[')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["{}\[\]]', re.DOTALL)
_TRUNCATED = "it ends inside its list of events"


class ListStart(NamedTuple):
    """Where the list of events begins in a file."""

    head: bytes
    """Metadata before the list."""
    at: int
    """Position of the first byte after the list's `[`."""
    bare: bool
    """True if the file is a list without metadata."""


class EventStream:
    """Iterable over lists of events of one file, in file order, of a source that begins with the file's first byte.

    With `start`, the source begins inside the list instead, at an event.

    After the iteration, `metadata` holds the other parts of the file, `damaged` the number of unreadable events, and
    `truncated` the reason if the file is incomplete, else None. Raises TraceError if the file is not a trace.
    """

    def __init__(self, source: ByteSource, start: ListStart | None = None) -> None:
        self.source = source
        self._start = start
        self.metadata = Metadata()
        self.opening = b""
        """Bytes from the beginning of the file, which tell its format."""
        self._recovery = DamageRecovery()
        self.truncated: str | None = None

    @property
    def damaged(self) -> int:
        """Number of events that could not be read."""
        return self._recovery.damaged

    def __iter__(self) -> Iterator[list[RawEvent]]:
        chunks = iter(self.source)
        head, text, bare = self._find_list(chunks) if self._start is None else (self._start.head, b"", self._start.bare)
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

    def find_start(self) -> ListStart:
        """Read the source until the list begins. Raises TraceError if the file is not a trace."""
        read = 0

        def counted() -> Iterator[bytes]:
            nonlocal read
            for chunk in self.source:
                read += len(chunk)
                yield chunk

        head, text, bare = self._find_list(counted())
        return ListStart(head, read - len(text), bare)

    def _find_list(self, chunks: Iterator[bytes]) -> tuple[bytes, bytes, bool]:
        """Return (metadata before the list, text after the list's `[`, True if the file is a list without metadata)."""
        text = b""
        for chunk in chunks:
            text += chunk
            if len(self.opening) < SNIFFED_BYTES:
                self.opening = text[:SNIFFED_BYTES]
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
        what = name_foreign(path, self.opening)
        if what is not None:
            raise TraceError(foreign_message(path, what))
        raise TraceError(
            f"{path}: not a trace: no list of traceEvents in it (expected a Chrome trace, .json or .json.gz)"
        )

    def _decode_start(self, text: bytes) -> tuple[list[RawEvent], bytes, bool] | None:
        """Return (complete events, remaining text, True if the list ended), or None if no event is complete."""
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
        """Return the last events of the file, whole or truncated, and read the metadata after the list."""
        body = b"[" + text
        found = decode_list(body)
        if found.trailing is not None:
            events = self._recovery.events_in(_list_inside(body, found.trailing))
            self._finish(head, text[found.trailing - 1 :], iter(()), bare)
            return events
        if found.events is not None:
            events = found.events
        elif found.malformed or found.incomplete:
            events = self._truncated_end(text)
        else:
            events = self._recovery.events_in(text.rstrip().removesuffix(b"]"))
        if not bare and self.truncated is None:
            self.truncated = self.source.damage or _TRUNCATED
        self._read_metadata(head, b"}")
        return events

    def _truncated_end(self, text: bytes) -> list[RawEvent]:
        """Return the last events of a file that ends inside its list; at most the very last event is lost."""
        if text.strip():
            self.truncated = self.source.damage or _TRUNCATED
        events: list[RawEvent] | None = try_decode(decode_events, b"[" + text.rstrip().removesuffix(b",") + b"]")
        return events if events is not None else self._recovery.events_of(split_events(text)[:-1])

    def _finish(self, head: bytes, rest: bytes, chunks: Iterator[bytes], bare: bool) -> None:
        """Read the rest of the file after the list of events."""
        for chunk in chunks:
            if len(rest) < _MAX_HEADER_BYTES:
                rest += chunk
        self.truncated = self.source.damage
        if not bare:
            self._read_metadata(head, rest)

    def _read_metadata(self, head: bytes, rest: bytes) -> None:
        """Read the metadata before and after the list; if the part after is broken, only the part before."""
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


def whole_events(source: ByteSource) -> Iterator[list[RawEvent]]:
    """Yield the events of a source that begins and ends between two events of a list.

    Raises TraceError if it holds anything else: where it was cut was no place between events, or the list is damaged.
    """
    text = b""
    for chunk in source:
        text += chunk
        cut = _last_between(text)
        found = None if cut is None else decode_list(b"[" + text[:cut] + b"]").events
        if found is not None and cut is not None:
            yield found
            text = _after(text, cut)
        elif len(text) > _MAX_EVENT_BYTES:
            break
    found = decode_list(b"[" + text + b"]").events
    if found is None:
        raise TraceError(f"{source.path}: a part of it holds something else than whole events")
    yield found


def _last_between(text: bytes) -> int | None:
    """Return the position after the `}` of the last `}, {` in the text, or None."""
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
    """Return the position after the last complete event, by counting brackets.

    Slower than `_last_between`, but right for events that contain lists of objects.
    """
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
        elif len(token.group()) == 1:  # a lone quote: the string continues after this text
            break
    return last


def _after(text: bytes, end: int) -> bytes:
    """Return the text after the comma that follows position `end`."""
    return text[text.index(b",", end) + 1 :]


def _list_inside(body: bytes, trailing: int) -> bytes:
    return body[:trailing].rstrip()[1:-1]
