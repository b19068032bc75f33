"""Lines that libraries write to file descriptor 2 on their own, past `sys.stderr`.

A panic of a library in Rust, such as tokenizers, becomes an exception in Python. Before that, the library prints a
report of several lines. The exception says the same, in the one line that a user gets.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

_PANIC = re.compile(rb"^\n?thread '.*' .*panicked at ", re.MULTILINE)

_filtering = threading.Lock()
"""Held by the thread that filters: the descriptor belongs to the whole process."""


@contextmanager
def filtered_stderr(kept: Callable[[bytes], bytes]) -> Iterator[None]:
    """Write what appears on file descriptor 2 inside the context when it ends, as `kept` changes it.

    Other threads write to the same descriptor, so the context should be short. Nothing is filtered while another thread
    or an outer context filters, without such a descriptor, or without room to hold what is written.
    """
    if not _filtering.acquire(blocking=False):
        yield
        return
    try:
        redirected = _redirect()
        try:
            yield
        finally:
            if redirected is not None:
                _restore(*redirected, kept)
    finally:
        _filtering.release()


@contextmanager
def only_python_stderr() -> Iterator[None]:
    """Let only `sys.stderr` reach the user: drop what libraries write to file descriptor 2, however long it takes."""
    python = sys.stderr
    try:
        saved = os.dup(2)
    except OSError:  # the parent process closed it
        yield
        return
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with os.fdopen(os.dup(saved), "w", encoding=python.encoding, errors=python.errors) as stream:
            sys.stderr = stream
            try:
                yield
            finally:
                sys.stderr = python
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def without_panic_reports() -> Iterator[None]:
    """Drop the reports of panics inside the context, which raise an exception too."""
    with filtered_stderr(_before_panic):
        yield


def _before_panic(text: bytes) -> bytes:
    """Return what precedes the first report. Its end is unknown: it may hold a backtrace."""
    found = _PANIC.search(text)
    return text if found is None else text[: found.start()]


def _redirect() -> tuple[int, int] | None:
    """Let file descriptor 2 write to a buffer. Return a copy of the old one, and the buffer, or None if that fails."""
    _flush()
    try:
        buffer = _buffer(os.getpid())
        saved = os.dup(2)
    except OSError:  # the parent process closed descriptor 2, or there is no room
        return None
    os.dup2(buffer, 2)
    return saved, buffer


def _restore(saved: int, buffer: int, kept: Callable[[bytes], bytes]) -> None:
    _flush()
    os.dup2(saved, 2)
    os.close(saved)
    if not (size := os.lseek(buffer, 0, os.SEEK_CUR)):
        return
    text = kept(os.pread(buffer, size, 0))
    os.lseek(buffer, 0, os.SEEK_SET)
    os.ftruncate(buffer, 0)
    with suppress(OSError):
        while text:
            text = text[os.write(2, text) :]


@cache
def _buffer(process_id: int) -> int:
    """Return a descriptor of an empty file. A forked process gets its own."""
    if hasattr(os, "memfd_create"):  # needs no folder that can be written
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _flush() -> None:
    with suppress(AttributeError, OSError, ValueError):  # None, full or closed
        sys.stderr.flush()
