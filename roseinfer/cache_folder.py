"""The user's folder for what is measured once and kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ROSEINFER_CACHE_DIR`, else `roseinfer` in `$XDG_CACHE_HOME`, else in `~/.cache`; it need not exist."""
    if own := os.environ.get("ROSEINFER_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roseinfer"
