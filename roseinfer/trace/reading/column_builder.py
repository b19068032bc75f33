"""Collect, clean and sort the columns of a trace while the file is read."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import GpuTable, HostTable, Ints32
from roseinfer.trace.reading.event_order import event_order

DAY_US = 86_400e6
"""One day in us: longer than any event or recording."""
_DAY_NS = 86_400_000_000_000
_MAX_US = 4e15
"""About 130 years in microseconds: beyond any clock that writes traces, and no overflow as int64 nanoseconds."""
_SAMPLES = 100_000
"""Approximate number of start times sampled to compute their median."""


class Rows:
    """Growing columns of one kind of event. `dropped` counts the events left out because of impossible times."""

    def __init__(self, **own: type[Any]) -> None:
        self.dtypes: dict[str, type[Any]] = {"name": np.int32, "lane": np.int32, **own}
        self.parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("start", "end", *self.dtypes)}
        self.dropped = 0
        self.zero_times = 0
        """Number of dropped events that begin at the time 0."""
        self.dropped_ids: list[NDArray[Any]] = []
        """Correlation ids of the events left out, in batches, for events that have such ids."""

    def add(self, ts: Sequence[float], dur: Sequence[float] | NDArray[np.float64], **columns: Sequence[Any]) -> None:
        """Append a batch of events; `ts` and `dur` are in us."""
        stamp, duration = np.array(ts, np.float64), np.array(dur, np.float64)
        good = (np.abs(stamp) < _MAX_US) & (duration >= 0) & (duration < DAY_US)
        batch = {name: np.array(values, self.dtypes[name]) for name, values in columns.items()}
        if not good.all():
            self._count_dropped(~good, batch)
            stamp, duration = stamp[good], duration[good]
            batch = {name: values[good] for name, values in batch.items()}
        start = np.rint(stamp * 1000).astype(np.int64)
        batch["start"], batch["end"] = start, start + np.rint(duration * 1000).astype(np.int64)
        for name, values in batch.items():
            self.parts[name].append(values)

    def extend(self, later: "Rows", **numbers: NDArray[np.int32]) -> None:
        """Append the rows of a table with the same columns; `numbers` has the new value of each old one, by column."""
        for name, parts in later.parts.items():
            new = numbers.get(name)
            self.parts[name] += parts if new is None else [new[part].astype(part.dtype) for part in parts]
        self.dropped += later.dropped
        self.zero_times += later.zero_times
        self.dropped_ids += later.dropped_ids

    def renumber(self, name: str, numbers: NDArray[np.int32]) -> None:
        """Replace the values of one column; `numbers` has the new value of each old one."""
        self.parts[name] = [numbers[part] for part in self.parts[name]]

    def pop_column(self, name: str) -> NDArray[Any]:
        """Return one whole column and release its batches."""
        parts = self.parts.pop(name)
        return np.concatenate(parts) if parts else np.zeros(0, self.dtypes.get(name, np.int64))

    def filter(self, good: list[NDArray[np.bool_]]) -> None:
        """Drop the rows that are not marked good; `good` has one mask per batch."""
        for index, one in enumerate(good):
            self._count_dropped(~one, {name: parts[index] for name, parts in self.parts.items()})
        for name, parts in self.parts.items():
            self.parts[name] = [part[one] for part, one in zip(parts, good, strict=True)]

    def move_named(self, names: Sequence[int], target: "Rows") -> None:
        """Move the rows of some name indices to another table with the same columns."""
        chosen = [np.isin(part, names) for part in self.parts["name"]]
        for name, parts in self.parts.items():
            if name in target.parts:
                target.parts[name] += [part[at] for part, at in zip(parts, chosen, strict=True) if at.any()]
            self.parts[name] = [part[~at] for part, at in zip(parts, chosen, strict=True)]

    def _count_dropped(self, dropped: NDArray[np.bool_], batch: dict[str, NDArray[Any]]) -> None:
        self.dropped += int(np.count_nonzero(dropped))
        if "start" in batch:
            self.zero_times += int(np.count_nonzero(batch["start"][dropped] == 0))
        if "correlation" in batch:
            self.dropped_ids.append(batch["correlation"][dropped])


def drop_zero_times(rows: Rows) -> None:
    """Drop the GPU events that a failed clock puts at the time 0: those of no duration, and several of one stream.

    A trace that counts its times from 0 may begin with one such event, but not with several on a stream.
    """
    starts, ends, lanes = rows.parts["start"], rows.parts["end"], rows.parts["lane"]
    zero = [start == 0 for start in starts]
    if not any(one.any() for one in zero) or all(one.all() for one in zero):
        return
    lanes_at_zero = np.concatenate([lane[one] for lane, one in zip(lanes, zero, strict=True)])
    size = 1 + max(int(lane.max(initial=0)) for lane in lanes)
    is_shared = np.bincount(lanes_at_zero, minlength=size) > 1
    rows.filter([~(one & ((end == 0) | is_shared[lane])) for one, end, lane in zip(zero, ends, lanes, strict=True)])


def drop_stray_times(tables: list[Rows]) -> int:
    """Drop events that are a day or more away from the median start; return the first remaining start in ns.

    A clock that failed (ts = 0) or a flipped byte causes such events, which would stretch every window to years.
    """
    batches = [batch for rows in tables for batch in rows.parts["start"]]
    size = sum(len(batch) for batch in batches)
    if size == 0:
        return 0
    stride = size // _SAMPLES + 1
    starts = np.concatenate([batch[:: min(stride, max(1, len(batch)))] for batch in batches])
    running = starts[starts != 0]  # of a clock that did not fail
    middle = int(np.median(running)) if len(running) else 0
    for rows in tables:
        good = [np.abs(batch - middle) < _DAY_NS for batch in rows.parts["start"]]
        if not all(bool(one.all()) for one in good):
            rows.filter(good)
    return min((int(batch.min()) for rows in tables for batch in rows.parts["start"] if len(batch)), default=0)


def drop_far_times(rows: Rows, first_ns: int) -> None:
    """Drop the events of a table that begin a day or more away from the trace's first event."""
    good = [np.abs(batch - first_ns) < _DAY_NS for batch in rows.parts["start"]]
    if not all(bool(one.all()) for one in good):
        rows.filter(good)


def host_table(rows: Rows, first_ns: int) -> HostTable:
    """Build the table, sorted by (thread, start, longest first), with times counted from `first_ns`."""
    start, end, lane = _times(rows, "start", first_ns), _times(rows, "end", first_ns), rows.pop_column("lane")
    in_order = _sorter(lane, start, -end)
    return HostTable(
        start_ns=in_order(start),
        end_ns=in_order(end),
        thread=in_order(lane),
        name=in_order(rows.pop_column("name")),
        correlation=in_order(rows.pop_column("correlation")) if "correlation" in rows.dtypes else np.zeros(0, np.int64),
        inputs=in_order(rows.pop_column("inputs")) if "inputs" in rows.dtypes else np.zeros(0, np.int32),
    )


def gpu_table(rows: Rows, first_ns: int, lane_device: Ints32, lane_stream: Ints32) -> GpuTable:
    """Build the table, sorted by (device, start, end), with times counted from `first_ns`.

    `lane_device` and `lane_stream` hold the device and the stream of each (device, stream) pair.
    """
    start, end, lane = _times(rows, "start", first_ns), _times(rows, "end", first_ns), rows.pop_column("lane")
    device = lane_device[lane]
    in_order = _sorter(device, start, end)
    return GpuTable(
        start_ns=in_order(start),
        end_ns=in_order(end),
        name=in_order(rows.pop_column("name")),
        device=in_order(device),
        stream=in_order(lane_stream[lane]),
        kind=in_order(rows.pop_column("kind")),
        correlation=in_order(rows.pop_column("correlation")),
        message=in_order(rows.pop_column("message")),
    )


def _times(rows: Rows, name: str, first_ns: int) -> NDArray[Any]:
    times = rows.pop_column(name)
    times -= first_ns
    return times


def _sorter(group: Ints32, start: NDArray[Any], end_key: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function that sorts a column by (group, start, `end_key`)."""
    order = event_order(group, start, end_key).astype(np.int32 if len(group) < 2**31 else np.int64)
    return lambda column: column[order]
