"""Repair a damaged trace: recover every event of a broken list that still decodes, and count the others."""

import math
import re
from typing import Any

from roseinfer.trace.reading.event_schema import Id, RawArgs, RawEvent
from roseinfer.trace.reading.list_decoding import decode_any, decode_events, try_decode

BETWEEN_EVENTS = re.compile(rb"\}\s*,\s*(?=\{)")
"""End of one event and the comma before the next, if not inside a string or a nested object."""


class DamageRecovery:
    """Recovers events from damaged parts of a list; `damaged` counts those that are lost."""

    def __init__(self) -> None:
        self.damaged = 0

    def events_in(self, text: bytes) -> list[RawEvent]:
        """Return every readable event of some text from inside the list."""
        if not text.strip():
            return []
        events: list[RawEvent] | None = try_decode(decode_events, b"[" + text + b"]")
        return events if events is not None else self.events_of(split_events(text))

    def events_of(self, pieces: list[bytes]) -> list[RawEvent]:
        """Return every readable event of a split list: halve the list until each part decodes or is a single event."""
        if not pieces:
            return []
        events: list[RawEvent] | None = try_decode(decode_events, b"[" + b",".join(pieces) + b"]")
        if events is not None:
            return events
        if len(pieces) > 1:
            half = len(pieces) // 2
            return self.events_of(pieces[:half]) + self.events_of(pieces[half:])
        event = lenient_event(try_decode(decode_any, pieces[0].decode("utf-8", "replace").encode()))
        if event is None:
            self.damaged += 1
            return []
        return [event]


def split_events(text: bytes) -> list[bytes]:
    """Split text from inside the list at every `}, {`."""
    pieces = [piece.strip() + b"}" for piece in BETWEEN_EVENTS.split(text)]
    pieces[-1] = pieces[-1][:-1]
    return pieces


def lenient_event(value: Any) -> RawEvent | None:
    """Convert any decoded JSON object to a `RawEvent`, with defaults for fields of a wrong type; else return None."""
    if not isinstance(value, dict):
        return None
    args = value.get("args")
    if not isinstance(args, dict):
        args = {}
    return RawEvent(
        ph=_text(value.get("ph")) or "",
        cat=_text(value.get("cat")),
        name=_text(value.get("name")),
        pid=_id(value.get("pid")),
        tid=_id(value.get("tid")),
        ts=_number(value.get("ts"), math.nan),
        dur=_number(value["dur"], math.inf) if "dur" in value else math.nan,
        args=RawArgs(
            correlation=_id(args.get("correlation")),
            device=_id(args.get("device")),
            stream=_id(args.get("stream")),
            sequence=_id(args.get("Sequence number")),
            forward_thread=_id(args.get("Fwd thread id")),
        ),
    )


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _id(value: Any) -> Id:
    return value if isinstance(value, int | str | float) else None
