"""A stream of bytes is cut into the same events wherever its chunks end, also inside of long or nested events."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from roseinfer.trace.reading.byte_source import ByteSource
from roseinfer.trace.reading.event_stream import EventStream


class Chunks:
    """A file of trace that arrives in chunks of one size."""

    path = Path("trace.json")
    damage = None

    def __init__(self, text: bytes, size: int) -> None:
        self.text, self.size = text, size

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self.text), self.size):
            yield self.text[at : at + self.size]


def names_by_chunk(text: bytes, size: int) -> tuple[list[list[str]], EventStream]:
    """Return the names of events, per list that the stream yields, and the stream."""
    stream = EventStream(cast(ByteSource, Chunks(text, size)))
    return [[cast(str, event.name) for event in events] for events in stream], stream


def event(name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": 1.0, "dur": 1.0, "args": args}


def nested(index: int, count: int) -> dict[str, Any]:
    """An event with `count` objects in a list, and braces in strings: places that look like those between events."""
    inner = [{"a": [{"b": at}, {"c": "}, {"}]} for at in range(count)]
    return event(f"event {index}", {"list": inner, "text": 'a "quoted" }, { [{}]'})


@pytest.mark.parametrize("seed", range(3))
def test_events_with_lists_of_objects_are_cut_between_events(seed: int) -> None:
    chooser = random.Random(seed)
    events = [nested(index, chooser.choice((0, 1, 30))) for index in range(12)]
    text = json.dumps({"schemaVersion": 1, "traceEvents": events, "deviceProperties": []}).encode()
    expected = [each["name"] for each in events]
    for size in (7, 64, 333, 1000, 2500, len(text)):
        lists, stream = names_by_chunk(text, size)
        assert [name for names in lists for name in names] == expected
        assert (stream.damaged, stream.truncated) == (0, None)


def test_an_event_is_read_as_soon_as_it_is_whole_though_the_next_one_is_full_of_objects() -> None:
    """Otherwise a file of such events would be collected up to the limit, and count as damaged."""
    text = json.dumps({"traceEvents": [nested(0, 0), nested(1, 200), nested(2, 0)]}).encode()
    second = text.index(b"event 1")
    lists, _ = names_by_chunk(text[: second + 4000], second + 4000)
    assert lists[0] == ["event 0"]


@pytest.mark.parametrize("length", [100, 5_000, 40_000])
def test_the_end_of_an_event_is_found_before_a_long_one(length: int) -> None:
    text = json.dumps({"traceEvents": [event("first", {}), event("second", {"long": "x" * length})]}).encode()
    lists, _ = names_by_chunk(text, len(text) - 20)
    assert lists[0] == ["first"]
    assert [name for names in lists for name in names] == ["first", "second"]
