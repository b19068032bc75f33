"""Read a large trace with several processes at once, each a part of its bytes.

Python decodes JSON on one core. A trace that is not gzipped is cut into parts between two events, which other processes
turn into columns; this process reads the last part, and the metadata behind the list of events. A cut may fall into a
string or a nested object that looks like the space between two events. The part before it then does not decode, its
process says so, and the file is read by one process from its beginning, as is a damaged file.
"""

import pickle
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from roseinfer.errors import TraceError
from roseinfer.processors import available_cores
from roseinfer.progress import ProgressCallback
from roseinfer.trace.reading.byte_source import ByteSource
from roseinfer.trace.reading.damage_recovery import BETWEEN_EVENTS
from roseinfer.trace.reading.event_stream import EventStream, whole_events
from roseinfer.trace.reading.trace_builder import TraceBuilder

_PART_BYTES = 64 << 20
"""Minimum bytes per process: reading them takes several times as long as starting the process."""
_MAX_PROCESSES = 8
"""More processes than this wait for the memory and for this process, which collects what they read."""
_CUT_BYTES = 1 << 20
"""Bytes in which the space between two events is looked for."""


def processes_for(size_bytes: int) -> int:
    """Return how many processes read a file of some size fastest."""
    parts = min(size_bytes // _PART_BYTES, _MAX_PROCESSES)
    return min(parts, available_cores()[0]) if parts > 1 and sys.executable else 1


def read_parts(
    path: Path, processes: int, on_progress: ProgressCallback | None, chunk_bytes: int
) -> tuple[EventStream, TraceBuilder] | None:
    """Read a trace with `processes` processes; return the stream that read the end of the file, and all events.

    Returns None if the file has to be read from its beginning, by one process. `on_progress` receives bytes of the
    file, as far as this process's part is representative of all.
    """
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return None
        first = EventStream(ByteSource(path, None, chunk_bytes))
        start = first.find_start()
        bounds = _cut(file, start.at, path.stat().st_size, processes)
    if bounds is None:
        return None
    begin, end = bounds[-1]

    def progress(done: int, _: int) -> None:
        if on_progress is not None:
            on_progress(end * done // (end - begin), end)

    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(path, part, chunk_bytes)) for part in bounds[:-1]]
        stream = EventStream(ByteSource(path, progress, chunk_bytes, bounds[-1]), start)
        stream.opening = first.opening
        last = TraceBuilder.of(stream, path)
        builder = TraceBuilder()
        for worker in workers:
            part = worker.result()
            if part is None or stream.damaged:
                return None
            builder.absorb(part)
            builder.check(path)
        builder.absorb(last)
        builder.check(path)
    return stream, builder


def _cut(file: BinaryIO, start: int, end: int, parts: int) -> list[tuple[int, int]] | None:
    """Cut the bytes from `start` to `end` into parts of about one size; None if a cut is not found."""
    bounds: list[tuple[int, int]] = []
    begun = start
    for number in range(1, parts):
        at = start + (end - start) * number // parts
        file.seek(at)
        found = BETWEEN_EVENTS.search(file.read(_CUT_BYTES))
        if found is None or at < begun:
            return None
        bounds.append((begun, at + found.start() + 1))
        begun = at + found.end()
    return [*bounds, (begun, end)]


class _Worker:
    """A process that reads one part of a file. It ends with the context."""

    def __init__(self, path: Path, part: tuple[int, int], chunk_bytes: int) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        values = (str(path), *map(str, part), str(chunk_bytes))
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *values],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "_Worker":
        return self

    def result(self) -> TraceBuilder | None:
        """Wait for the events of the part; None if it could not be read."""
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            return None
        return found if isinstance(found, TraceBuilder) else None

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Read the part of a file that the arguments name, and write its events to stdout, or None."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    start, end, chunk_bytes = map(int, sys.argv[2:])
    found = read_part(Path(sys.argv[1]), (start, end), chunk_bytes)
    pickle.dump(found, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)


def read_part(path: Path, part: tuple[int, int], chunk_bytes: int) -> TraceBuilder | None:
    """Return the events between two positions in the list of events, or None if that text holds anything else."""
    try:
        return TraceBuilder.of(whole_events(ByteSource(path, None, chunk_bytes, part)), path)
    except TraceError:
        return None
