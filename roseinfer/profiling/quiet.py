"""Keeping a C++ library's chatter off the user's screen."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = b"USDT:"


@contextmanager
def without_usdt_lines() -> Iterator[None]:
    """Drop the `USDT:` lines that torch 2.13 writes to file descriptor 2; whatever else is written there passes."""
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
            passed = b"".join(line for line in captured if not line.startswith(_CHATTER))
            if passed:
                os.write(2, passed)
