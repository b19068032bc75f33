"""Filter for stderr lines that the C++ profiler prints."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from roseinfer.native_stderr import filtered_stderr

_CHATTER = re.compile(
    rb"USDT:|ERROR:.*\boutput_json\.cpp\b|ERROR:.*\bCudaDeviceProperties\.cpp\b.*\bcudaGetDeviceCount\b"
)
"""Lines to drop:

- notices of torch 2.13 at each start and stop
- kineto's report of a failed write: the caller checks the written file itself
- kineto's report that it finds no GPU, which builds of torch for CUDA print on a machine without one
"""


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop the profiler's own lines from file descriptor 2. Other lines are written when the context ends."""
    with filtered_stderr(_without_chatter):
        yield


def _without_chatter(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if not _CHATTER.match(line))
