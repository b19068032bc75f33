"""Growing, cleaning and sorting the columns of a trace while it is read."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import GpuTable, HostTable, Small

DAY_US = 86_400e6
_DAY_NS = 86_400_000_000_000
_MAX_US = 4e15
"""About 130 years of microseconds: beyond any clock that writes traces, and safe as int64 nanoseconds."""
_SAMPLES = 100_000


class Rows:
    """Rows of one kind of event, a batch at a time; `dropped` counts those with impossible times."""

    def __init__(self, **own: type[Any]) -> None:
        self.dtypes: dict[str, type[Any]] = {"name": np.int32, "lane": np.int32, **own}
        self.parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("start", "end", *self.dtypes)}
        self.dropped = 0

    def add(self, ts: Sequence[float], dur: Sequence[float], **columns: Sequence[Any]) -> None:
        """Appends rows; `ts` and `dur` in us."""
        stamp, duration = np.array(ts, np.float64), np.array(dur, np.float64)
        good = (np.abs(stamp) < _MAX_US) & (duration >= 0) & (duration < DAY_US)
        batch = {name: np.array(values, self.dtypes[name]) for name, values in columns.items()}
        if not good.all():
            self.dropped += int(np.count_nonzero(~good))
            stamp, duration = stamp[good], duration[good]
            batch = {name: values[good] for name, values in batch.items()}
        start = np.rint(stamp * 1000).astype(np.int64)
        batch["start"], batch["end"] = start, start + np.rint(duration * 1000).astype(np.int64)
        for name, values in batch.items():
            self.parts[name].append(values)

    def take(self, name: str) -> NDArray[Any]:
        """One whole column, which is gone from here afterwards."""
        parts = self.parts.pop(name)
        return np.concatenate(parts) if parts else np.zeros(0, self.dtypes.get(name, np.int64))

    def filter(self, good: list[NDArray[np.bool_]]) -> None:
        """Keeps, of every batch, the rows marked good."""
        self.dropped += sum(int(np.count_nonzero(~one)) for one in good)
        for name, parts in self.parts.items():
            self.parts[name] = [part[one] for part, one in zip(parts, good, strict=True)]


def settle_clock(tables: list[Rows]) -> int:
    """Drops events that lie far from all the others, and returns the first start that remains, in ns.

    A clock that failed (ts = 0) or a flipped byte makes such events; they would stretch every window to years.
    """
    batches = [batch for rows in tables for batch in rows.parts["start"]]
    size = sum(len(batch) for batch in batches)
    if size == 0:
        return 0
    stride = size // _SAMPLES + 1
    middle = int(np.median(np.concatenate([batch[:: min(stride, max(1, len(batch)))] for batch in batches])))
    for rows in tables:
        good = [np.abs(batch - middle) < _DAY_NS for batch in rows.parts["start"]]
        if not all(bool(one.all()) for one in good):
            rows.filter(good)
    return min((int(batch.min()) for rows in tables for batch in rows.parts["start"] if len(batch)), default=0)


def host_table(rows: Rows, origin_ns: int) -> HostTable:
    """The finished table, sorted by (thread, start, longest first)."""
    start, end, lane = _times(rows, "start", origin_ns), _times(rows, "end", origin_ns), rows.take("lane")
    take = _sorted(-end, start, lane)
    return HostTable(
        start_ns=take(start),
        end_ns=take(end),
        thread=take(lane),
        name=take(rows.take("name")),
        correlation=take(rows.take("correlation")) if "correlation" in rows.dtypes else np.zeros(0, np.int64),
    )


def gpu_table(rows: Rows, origin_ns: int, lane_device: Small, lane_stream: Small) -> GpuTable:
    """The finished table, sorted by (device, start, end); lanes become devices and streams."""
    start, end, lane = _times(rows, "start", origin_ns), _times(rows, "end", origin_ns), rows.take("lane")
    device = lane_device[lane]
    take = _sorted(end, start, device)
    return GpuTable(
        start_ns=take(start),
        end_ns=take(end),
        name=take(rows.take("name")),
        device=take(device),
        stream=take(lane_stream[lane]),
        kind=take(rows.take("kind")),
        correlation=take(rows.take("correlation")),
    )


def _times(rows: Rows, name: str, origin_ns: int) -> NDArray[Any]:
    times = rows.take(name)
    times -= origin_ns
    return times


def _sorted(*keys: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Puts a column into the order of the keys, the last of which comes first."""
    order = np.lexsort(keys).astype(np.int32 if len(keys[0]) < 2**31 else np.int64)
    return lambda column: column[order]
