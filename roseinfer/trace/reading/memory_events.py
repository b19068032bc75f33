"""Read the events of torch's allocators, which the profiler's option `profile_memory` records."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.column_builder import Rows, drop_far_times
from roseinfer.trace.reading.columns import CPU_MEMORY, MemoryDevice, MemoryTable
from roseinfer.trace.reading.event_order import event_order
from roseinfer.trace.reading.event_schema import Id, RawArgs, RawEvent

MEMORY_CATEGORY = "cpu_instant_event"
"""Category of the events, which have no duration."""
_NAME = "[memory]"
_NO_ARGS = RawArgs()


class MemoryEvents:
    """Collects events of the allocators of one file, batch after batch."""

    def __init__(self) -> None:
        whole = dict.fromkeys(("num_bytes", "address", "allocated", "reserved"), np.int64)
        self._rows = Rows(device=np.int32, **whole)
        self._devices: dict[int, int] = {}

    @property
    def num_devices(self) -> int:
        """Number of devices so far."""
        return len(self._devices)

    def add(self, events: list[RawEvent], lanes: Any) -> None:
        """Add the events among some of their category; `lanes` numbers the threads of the file."""
        group = [event for event in events if event.name == _NAME and event.ph == "i"]
        if not group:
            return
        args = [event.args or _NO_ARGS for event in group]
        devices = self._devices
        self._rows.add(
            ts=[event.ts for event in group],
            dur=[0.0] * len(group),
            name=[0] * len(group),
            lane=[lanes[event.pid, event.tid] for event in group],
            device=[devices.setdefault(_device(arg), len(devices)) for arg in args],
            num_bytes=[_whole(arg.num_bytes) for arg in args],
            address=[_whole(arg.address) for arg in args],
            allocated=[_whole(arg.allocated) for arg in args],
            reserved=[_whole(arg.reserved) for arg in args],
        )

    def absorb(self, later: "MemoryEvents", lanes: NDArray[np.int32]) -> None:
        """Add the events of a later part of the file; `lanes` holds the number here of each of its threads."""
        devices = [self._devices.setdefault(one, len(self._devices)) for one in later._devices]
        self._rows.extend(later._rows, lane=lanes, device=np.array(devices, np.int32))

    def renumber_threads(self, numbers: NDArray[np.int32]) -> None:
        """Give each thread another number; `numbers` has the new one of each old one."""
        self._rows.renumber("lane", numbers)

    def finish(self, first_ns: int) -> tuple[MemoryTable, list[MemoryDevice]]:
        """Return the events, with times counted from `first_ns`, and their devices. May be called once.

        Events of one instant keep their order in the file, which is the order in which the allocator wrote them.
        """
        rows = self._rows
        drop_far_times(rows, first_ns)
        device, time_ns = rows.pop_column("device"), rows.pop_column("start") - first_ns
        order = event_order(device, time_ns, np.zeros(len(time_ns), np.int64))
        others = ("num_bytes", "address", "allocated", "reserved")
        table = MemoryTable(
            time_ns=time_ns[order],
            thread=rows.pop_column("lane")[order],
            device=device[order],
            **{name: rows.pop_column(name)[order] for name in others},
        )
        return table, [MemoryDevice(id=one, file=0) for one in self._devices]


def _device(args: RawArgs) -> int:
    """Return the number of the device that has the memory, from its type, which is 0 for the host, and its id."""
    if args.memory_device_type in (None, 0, "0"):
        return CPU_MEMORY
    number = _whole(args.memory_device)
    return number if 0 <= number < 1 << 20 else 0


def _whole(value: Id) -> int:
    """Return a whole number that may be negative, or 0 for anything else."""
    if isinstance(value, str):
        value = int(value) if value.removeprefix("-").isdecimal() and len(value) < 19 else 0
    return value if isinstance(value, int) and -(1 << 62) < value < 1 << 62 else 0
