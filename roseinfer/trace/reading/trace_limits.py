"""Limits of one trace file, far above what profilers record. A file above one of them is damaged, or made to harm.

Time and memory grow with the events, the lanes and the devices of a file. A gzipped file may expand a thousandfold, so
the size of the file on disk does not bound them.
"""

from pathlib import Path

from roseinfer.errors import TraceError

MAX_DEVICES = 1024
MAX_LANES = 16_384
"""Maximum threads of a file, and maximum streams."""
MAX_NAMES = 4_000_000
"""Maximum different names of events. The largest recorded traces have some 10,000."""
MAX_INPUTS = 1_000_000
"""Maximum different shapes and types of operators' inputs."""
EXPANSION = 100
"""Bytes to which one byte of a gzipped file may expand. Traces expand 10- to 30-fold."""
FREE_EXPANDED_BYTES = 64 << 20
"""Bytes to which any gzipped file may expand."""


def check_counts(path: Path, *, devices: int = 0, lanes: int = 0, names: int = 0, inputs: int = 0) -> None:
    """Raise TraceError for a file with too many devices, lanes (threads or streams), names or inputs of operators."""
    for what, count, limit in (
        ("devices", devices, MAX_DEVICES),
        ("threads or streams", lanes, MAX_LANES),
        ("names of events", names, MAX_NAMES),
        ("different inputs of operators", inputs, MAX_INPUTS),
    ):
        if count > limit:
            raise TraceError(
                f"{path}: more than {limit:,} {what}, which no profiler records: give the trace of one program"
            )


def check_expansion(path: Path, file_bytes: int, expanded_bytes: int) -> None:
    """Raise TraceError if a gzipped file has expanded to too many bytes."""
    if expanded_bytes > FREE_EXPANDED_BYTES + EXPANSION * file_bytes:
        raise TraceError(
            f"{path}: expands to more than {EXPANSION} times its size, which no trace does: "
            "give the file that the profiler wrote"
        )
