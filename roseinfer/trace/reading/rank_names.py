"""Tell the ranks of the files of a folder: by their metadata, else by their names, else by their times."""

import itertools
import re
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from roseinfer.trace.reading.columns import Trace

_WORDS = re.compile(r"(?<![a-z])(rank|worker|tp|pp|dp|ep|cp)[-_.]?(\d{1,6})(?!\d)", re.IGNORECASE)
"""Words in front of the number of a rank in the names of trace files."""
_SAME_TIME = 0.1
"""Share of the shorter of two recordings that both must cover to be of two processes at the same time."""


def identify_ranks(traces: list[Trace]) -> tuple[list[Trace], list[str]]:
    """Return the traces of a folder with their ranks, and notes about ranks that had to be guessed.

    One process cannot be recorded twice at the same time. Files of one rank that were recorded at the same time are
    therefore of several ranks: those in their names, if these are different, else those of their order.
    """
    named = _ranks_by_name(traces)
    unknown = [index for index, trace in enumerate(traces) if not all(trace.ranks_known)]
    ranks = [list(trace.file_ranks) for trace in traces]
    for index in unknown:
        if named[index] is not None and len(ranks[index]) == 1:
            ranks[index] = [named[index] or 0]
    notes: list[str] = []
    if _share_a_time(traces, ranks):
        single = all(len(one) == 1 for one in ranks)
        if single and None not in named and not _share_a_time(traces, [[one or 0] for one in named]):
            ranks = [[one or 0] for one in named]
            notes.append("Files of one rank were recorded at the same time: their ranks are those in their names.")
        else:
            ranks = _by_order(ranks)
            notes.append(
                "The ranks of the files are guessed from their order: files that name the same rank, or none, were "
                "recorded at the same time. Put the rank into their names, such as rank0.json."
            )
    return [_with_ranks(trace, new) for trace, new in zip(traces, ranks, strict=True)], notes


def _ranks_by_name(traces: list[Trace]) -> list[int | None]:
    """Return the rank in the name of each file, None if a name tells none.

    Names with several numbers, such as `TP-0-PP-1`, give the place of the numbers among those of all files.
    """
    keys: list[tuple[int, ...]] = []
    for trace in traces:
        found = _WORDS.findall(Path(trace.path).name)
        whole = [int(number) for word, number in found if word.lower() in ("rank", "worker")]
        keys.append(tuple(whole[:1] or [int(number) for _, number in found]))
    if max(map(len, keys)) > 1:
        place = {key: index for index, key in enumerate(sorted(set(keys)))}
        return [place[key] if key else None for key in keys]
    return [key[0] if key else None for key in keys]


def _share_a_time(traces: list[Trace], ranks: list[list[int]]) -> bool:
    """Return True if two different files of one rank were recorded at the same time."""
    by_rank: defaultdict[int, list[Trace]] = defaultdict(list)
    for trace, mine in zip(traces, ranks, strict=True):
        for rank in dict.fromkeys(mine):
            by_rank[rank].append(trace)
    for group in by_rank.values():
        ordered = sorted(group, key=_start)
        for one, other in itertools.pairwise(ordered):
            shared = min(_end(one), _end(other)) - _start(other)
            shorter = min(_end(one) - _start(one), _end(other) - _start(other))
            if shared > _SAME_TIME * shorter and not _is_copy(one, other):
                return True
    return False


def _start(trace: Trace) -> int:
    return trace.file_origins_ns[0]


def _end(trace: Trace) -> int:
    tables = (trace.ops, trace.spans, trace.calls, trace.gpu)
    return _start(trace) + max((int(table.end_ns.max()) for table in tables if len(table)), default=0)


def _is_copy(one: Trace, other: Trace) -> bool:
    """Return True if two files hold the same recording."""
    tables = [(getattr(one, name), getattr(other, name)) for name in ("ops", "calls", "gpu")]
    same_times = all(
        np.array_equal(mine.start_ns, its.start_ns) and np.array_equal(mine.end_ns, its.end_ns) for mine, its in tables
    )
    return one.threads == other.threads and same_times


def _by_order(ranks: list[list[int]]) -> list[list[int]]:
    first = np.cumsum([0, *map(len, ranks)]).tolist()
    return [list(range(low, low + len(one))) for low, one in zip(first, ranks, strict=False)]


def _with_ranks(trace: Trace, ranks: list[int]) -> Trace:
    if ranks == trace.file_ranks:
        return trace
    devices = [
        msgspec.structs.replace(device, rank=ranks[file])
        for device, file in zip(trace.devices, trace.device_files, strict=True)
    ]
    return msgspec.structs.replace(trace, file_ranks=ranks, devices=devices)
