"""Read a trace file into columns, in one pass and with bounded memory."""

import sys
from pathlib import Path

from roseinfer.errors import TraceError
from roseinfer.progress import ProgressCallback
from roseinfer.trace.reading.byte_source import CHUNK_BYTES, ByteSource
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.event_stream import EventStream
from roseinfer.trace.reading.foreign_files import foreign_message, name_foreign
from roseinfer.trace.reading.parallel_reading import processes_for, read_parts
from roseinfer.trace.reading.process_split import split_processes
from roseinfer.trace.reading.trace_builder import TraceBuilder

_LARGE_BYTES = 64 << 20
"""Size of a trace, in bytes, from which memory freed after reading is returned to the system."""


def read_trace(
    path: Path,
    *,
    on_progress: ProgressCallback | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    processes: int | None = None,
) -> Trace:
    """Read a Chrome trace, plain or gzipped (told by its content), in memory proportional to its number of events.

    `processes` read a file that is not gzipped at once; by default as many as pay, which for less than 128 MB is one.
    Of a damaged or incomplete file, everything readable is read; `counts` and `truncated` say what is lost.
    `on_progress` receives bytes of the file. Raises TraceError if the file cannot be read or is not a trace.
    """
    source = ByteSource(path, on_progress, chunk_bytes)
    processes = processes_for(source.size_bytes) if processes is None else processes
    read = read_parts(path, processes, on_progress, chunk_bytes) if processes > 1 else None
    stream, builder = read or _read_in_turn(source)
    if builder.events == 0 and stream.damaged:
        raise TraceError(f"{path}: not a trace: no event in it can be read")
    no_events_of_a_trace = 0 < builder.without_phase == builder.events
    is_foreign = no_events_of_a_trace or (builder.unknown > 0 and builder.is_empty)
    if is_foreign and (what := name_foreign(path, stream.opening)) is not None:
        raise TraceError(foreign_message(path, what))
    if no_events_of_a_trace:
        raise TraceError(f"{path}: not a trace: no event in it has a phase, ph (expected a Chrome trace)")
    trace = builder.finish(path, stream)
    trace = split_processes(trace)
    _return_memory(trace)
    return trace


def _read_in_turn(source: ByteSource) -> tuple[EventStream, TraceBuilder]:
    stream = EventStream(source)
    return stream, TraceBuilder.of(stream, source.path)


def _return_memory(trace: Trace) -> None:
    """Return memory freed by decoding and sorting to the system; glibc would hold it while the analysis needs more."""
    if trace.size_bytes >= _LARGE_BYTES and sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
