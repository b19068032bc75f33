"""The user's cache folder, for measurements and compiled kernels that later runs reuse."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    It is `$ROSEINFER_CACHE_DIR`, or else `roseinfer` in `$XDG_CACHE_HOME`, or else `~/.cache/roseinfer`.
    """
    if own := os.environ.get("ROSEINFER_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roseinfer"
