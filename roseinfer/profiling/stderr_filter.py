"""Filter for stderr lines that the C++ profiler prints."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = re.compile(rb"USDT:|ERROR:.*\boutput_json\.cpp\b")
"""Lines to drop: notices of torch 2.13 at each start and stop, and kineto's report of a failed write. The caller checks
the written file itself."""


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop the profiler's own lines from file descriptor 2. Other lines are written when the context ends."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        saved = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            passed = b"".join(line for line in captured if not _CHATTER.match(line))
            if passed:
                os.write(2, passed)
