"""Tell several ranks in one file apart, by their processes, and make a trace of each.

Correlation ids count per process: in such a file, a kernel and the launch call of another process may share an id.
"""

import itertools
import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import NO_CORRELATION, Device, GpuTable, HostTable, Ints32, MemoryTable, Trace
from roseinfer.trace.reading.event_order import event_order
from roseinfer.trace.reading.trace_merge import merge_traces

_LABEL = re.compile(r"^\s*\[([^\]]+)\]")
"""Label with which SGLang's profile merger marks the processes of each rank: `[TP00] 83`."""
_NUMBERS = re.compile(r"(?<!\d)\d{1,6}(?!\d)")
_MIN_SHARE = 0.5
"""Share of a device's events with launches in a process from which the device can belong to the process."""
_MAX_CHOICES = 6
"""Number of processes up to which every assignment of devices is tried; beyond, both are paired in ascending order."""


def process_label(pid: Any) -> str:
    """Return the label of a rank in a process id, such as `TP00` in `[TP00] 83`; empty without one."""
    found = _LABEL.match(pid) if isinstance(pid, str) else None
    return found.group(1) if found else ""


def split_processes(trace: Trace) -> Trace:
    """Return a file's trace with a file of its own for each of its ranks; the trace itself if it has one rank."""
    if len(trace.devices) < 2:
        return trace
    owner = _owners_by_label(trace) or _owners_by_launches(trace)
    if owner is None:
        return _with_distinct_devices(trace)
    thread_owner, device_owner, labels = owner
    parts = [
        _part(trace, label, rank, thread_owner == index, device_owner == index)
        for index, (label, rank) in enumerate(zip(labels, _ranks(labels), strict=True))
    ]
    merged = merge_traces(parts, trace.path)
    return msgspec.structs.replace(
        merged,
        size_bytes=trace.size_bytes,
        counts=trace.counts,
        truncated=trace.truncated,
        started_unix_ns=trace.started_unix_ns,
    )


def _with_distinct_devices(trace: Trace) -> Trace:
    """Return a trace of one rank with one device per id, whatever the pids of its GPU events."""
    ids = [(device.process, device.id) for device in trace.devices]
    kept = list(dict.fromkeys(ids))
    if len(kept) == len(ids):
        return trace
    device = np.array([kept.index(one) for one in ids], np.int32)[trace.gpu.device]
    order = event_order(device, trace.gpu.start_ns, trace.gpu.end_ns)
    columns = {name: getattr(trace.gpu, name)[order] for name in GpuTable.__struct_fields__}
    return msgspec.structs.replace(
        trace,
        devices=[trace.devices[ids.index(one)] for one in kept],
        device_files=[0] * len(kept),
        gpu=GpuTable(**{**columns, "device": device[order]}),
    )


_Owners = tuple[Ints32, Ints32, list[str]]
"""Index of the process per thread and per device, and the names of the processes."""


def _owners_by_label(trace: Trace) -> _Owners | None:
    """Return the owners if the devices have labels of at least two ranks."""
    labels = sorted({device.process for device in trace.devices if device.process})
    if len(labels) < 2:
        return None
    index = {label: at for at, label in enumerate(labels)}
    threads = [process_label(pid) or process_label(tid) for pid, tid in trace.threads]
    return (
        np.array([index.get(label, 0) for label in threads], np.int32),
        np.array([index.get(device.process, 0) for device in trace.devices], np.int32),
        labels,
    )


def _owners_by_launches(trace: Trace) -> _Owners | None:
    """Return the owners if several processes launch, each on devices of its own."""
    pids = [str(pid) for pid, _ in trace.threads]
    launching = _launching_threads(trace)
    names = sorted({pids[thread] for thread in launching}, key=lambda pid: (not pid.isdecimal(), len(pid), pid))
    if len(names) < 2:
        return None
    index = {pid: at for at, pid in enumerate(names)}
    process = np.array([index.get(pid, 0) for pid in pids], np.int32)
    fits = np.array([_fits(trace, device, process, len(names)) for device in range(len(trace.devices))])
    device_owner = _assigned(fits)
    if device_owner is None:
        return None
    used = np.unique(device_owner)
    place = np.zeros(len(names), np.int32)
    place[used] = np.arange(len(used))
    return place[process], place[device_owner], [f"pid {names[one]}" for one in used.tolist()]


def _assigned(fits: NDArray[np.float64]) -> Ints32 | None:
    """Return the process of each device, None if no choice fits; every process gets a device if there are as many.

    Of several choices that fit, the launches of all devices wait about equally long in the right one.
    """
    devices, processes, _ = fits.shape
    at = np.arange(devices)
    if devices != processes:
        choices = [tuple(fits[:, :, 0].argmax(axis=1).tolist())]
    elif devices <= _MAX_CHOICES:
        choices = list(itertools.permutations(range(devices)))
    else:
        choices = [tuple(range(devices))]
    good = [one for one in choices if len(set(one)) > 1 and np.all(fits[at, one, 0] >= _MIN_SHARE)]
    best = min(good, key=lambda one: float(np.square(fits[at, one, 1]).sum()), default=None)
    return None if best is None else np.array(best, np.int32)


def _launching_threads(trace: Trace) -> list[int]:
    """Return the threads with calls whose correlation id a GPU event has."""
    answered = np.isin(trace.calls.correlation, trace.gpu.correlation) & (trace.calls.correlation != NO_CORRELATION)
    return [int(thread) for thread in np.unique(trace.calls.thread[answered])]


def _fits(trace: Trace, device: int, process: Ints32, processes: int) -> NDArray[np.float64]:
    """Return, per process, (share of the device's events that it launched before they began, median wait in ns)."""
    gpu, calls = trace.gpu, trace.calls
    low, high = np.searchsorted(gpu.device, (device, device + 1))
    wanted, start = gpu.correlation[low:high], gpu.start_ns[low:high]
    found = np.zeros((processes, 2))
    for one in range(processes):
        mine = np.flatnonzero((process[calls.thread] == one) & (calls.correlation != NO_CORRELATION))
        mine = mine[np.argsort(calls.correlation[mine], kind="stable")]
        if len(mine) == 0 or high == low:
            continue
        ids = calls.correlation[mine]
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        wait = start - calls.start_ns[mine[at]]
        good = (ids[at] == wanted) & (wait >= 0)
        found[one] = good.mean(), np.median(wait[good]) if good.any() else np.inf
    return found


def _ranks(labels: list[str]) -> list[int]:
    """Return the rank of each label: its number if every label has one that is different, else its place."""
    numbers = [[int(number) for number in _NUMBERS.findall(label)] for label in labels]
    if all(len(one) == 1 and not label.startswith("pid") for one, label in zip(numbers, labels, strict=True)):
        found = [one[0] for one in numbers]
        if len(set(found)) == len(found):
            return found
    return list(range(len(labels)))


def _part(trace: Trace, label: str, rank: int, threads: NDArray[np.bool_], devices: NDArray[np.bool_]) -> Trace:
    """Return the trace of one process: some threads and some devices."""
    new_thread = np.cumsum(threads).astype(np.int32) - 1
    new_device = np.cumsum(devices).astype(np.int32) - 1

    def host(table: HostTable) -> HostTable:
        keep = threads[table.thread]
        columns = {
            name: getattr(table, name)[keep] if len(getattr(table, name)) else getattr(table, name)
            for name in HostTable.__struct_fields__
        }
        return HostTable(**{**columns, "thread": new_thread[columns["thread"]]})

    keep = devices[trace.gpu.device]
    gpu = {name: getattr(trace.gpu, name)[keep] for name in GpuTable.__struct_fields__}
    tables: dict[str, Any] = {
        name: host(getattr(trace, name)) for name in ("ops", "spans", "calls", "frames", "numbered_ops", "message_ops")
    }
    mine = threads[trace.memory.thread]
    memory = {name: getattr(trace.memory, name)[mine] for name in MemoryTable.__struct_fields__}
    return msgspec.structs.replace(
        trace,
        **tables,
        memory=MemoryTable(**{**memory, "thread": new_thread[memory["thread"]]}),
        threads=[one for one, kept in zip(trace.threads, threads, strict=True) if kept],
        thread_files=[0] * int(threads.sum()),
        file_ranks=[rank],
        file_origins_ns=trace.file_origins_ns,
        ranks_known=[True],
        devices=[
            Device(id=one.id, rank=rank, name=one.name, process=label)
            for one, kept in zip(trace.devices, devices, strict=True)
            if kept
        ],
        device_files=[0] * int(devices.sum()),
        gpu=GpuTable(**{**gpu, "device": new_device[gpu["device"]]}),
    )
