"""Read the bytes of a trace file, plain or gzipped, in chunks, and report progress in bytes of the file."""

import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from roseinfer.errors import TraceError
from roseinfer.progress import ProgressCallback
from roseinfer.trace.reading.trace_limits import check_expansion

CHUNK_BYTES = 1 << 20
_READ_AHEAD_FROM_BYTES = 4 << 20
"""Size of a file from which a thread reads ahead; for smaller files, starting the thread costs more than it saves."""


class ByteSource:
    """Iterable over the decompressed chunks of one file, or the bytes from `part[0]` to `part[1]` of one not gzipped.

    After the iteration, `damage` says why the file ended early, or is None if the file is whole.
    """

    def __init__(
        self,
        path: Path,
        on_progress: ProgressCallback | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        part: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        self._part = part
        self.damage: str | None = None
        self._on_progress = on_progress
        self._chunk_bytes = chunk_bytes
        self._done = 0
        try:
            if not path.is_file():
                raise TraceError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
            self.size_bytes = path.stat().st_size
        except OSError as error:
            raise TraceError(f"{path}: {error.strerror or error}") from error

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of about `chunk_bytes`; of a broken gzip stream, yield everything before the break."""
        try:
            with self.path.open("rb") as file:
                is_gzip = self._part is None and file.read(2) == b"\x1f\x8b"
                file.seek(self._part[0] if self._part else 0)
                blocks = self._raw(file.read)
                chunks = self._inflated(blocks) if is_gzip else blocks
                for chunk in _read_ahead(chunks) if self.size_bytes >= _READ_AHEAD_FROM_BYTES else chunks:
                    yield chunk
                    if self._on_progress is not None:
                        self._on_progress(self._done, max(self.size_bytes, self._done))
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror or error}") from error

    def _raw(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        start, end = self._part or (0, sys.maxsize)
        while block := read(min(self._chunk_bytes, end - start - self._done)):
            self._done += len(block)
            yield block

    def _inflated(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        inflater = zlib.decompressobj(wbits=31)
        started = False  # True inside a gzip member
        expanded = 0
        try:
            for block in blocks:
                data = block
                while data:
                    if inflater.eof:
                        data = data.lstrip(b"\0")  # padding between members
                        if not data:
                            break
                        inflater = zlib.decompressobj(wbits=31)
                    text = inflater.decompress(data, self._chunk_bytes)
                    started = not inflater.eof
                    expanded += len(text)
                    check_expansion(self.path, self.size_bytes, expanded)
                    if text:
                        yield text
                    data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        except zlib.error:
            self.damage = "its gzip stream is damaged"
        else:
            if started:
                self.damage = "its gzip stream is truncated"


def _read_ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks unchanged; while the caller uses one chunk, a thread reads and inflates the next."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="trace-reader") as pool:
        pending = pool.submit(next, chunks, None)
        while (chunk := pending.result()) is not None:
            pending = pool.submit(next, chunks, None)
            yield chunk
