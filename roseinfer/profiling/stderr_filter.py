"""Keeping a C++ library's chatter off the user's screen."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = re.compile(rb"USDT:|ERROR:.*\boutput_json\.cpp\b")
"""What torch 2.13 tells at each start and stop, and how kineto says that it could not write: the caller checks that."""


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop the profiler's own lines from file descriptor 2; whatever else is written there passes."""
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
