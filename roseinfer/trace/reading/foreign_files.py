"""Name files that are not traces of torch.profiler, so that a user learns what was given and what to give."""

import re
from pathlib import Path

SNIFFED_BYTES = 1 << 16
"""Number of bytes from the beginning of a file that decide what it is."""

_MAGIC = (
    (b"SQLite format 3\x00", "an SQLite database, such as Nsight Systems exports"),
    (b"PK\x03\x04", "a zip archive, such as torch.save writes"),
    (b"\x89PNG", "a PNG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "an executable"),
)
_TAR = "a tar archive, which must be unpacked first"
_ENDINGS = (
    (".nsys-rep", "a report of Nsight Systems"),
    (".qdrep", "a report of Nsight Systems"),
    (".ncu-rep", "a report of Nsight Compute"),
    (".xplane.pb", "an XPlane protobuf of JAX or TensorFlow"),
    (".pftrace", "a Perfetto protobuf trace"),
    (".perfetto-trace", "a Perfetto protobuf trace"),
    (".tar", _TAR),
    (".tgz", _TAR),
    (".pickle", "a pickle, such as PyTorch's memory snapshots"),
    (".pkl", "a pickle, such as PyTorch's memory snapshots"),
)
_TEXTS = (
    (r'"Type"\s*:\s*\d+\s*,\s*"\w+Event"|"(?:Cuda|Nvtx|OSRT|TraceProcess)Event"\s*:', "JSON lines of Nsight Systems"),
    (r'"Time \(%\)"\s*:', "a table of Nsight Systems"),
    (r'"constants"\s*:.*"logEventTypes"|"logEventTypes"\s*:', "a net-log of the Chrome browser"),
    (r"speedscope\.app/file-format-schema", "a profile in the format of speedscope"),
    (
        r'"hlo_(?:op|module|category)"\s*:|"/(?:device:(?:GPU|TPU|CPU):\d|host:CPU)',
        "a trace of JAX or TensorFlow",
    ),
    (r'"viztracer_metadata"|"cat"\s*:\s*"FEE"', "a trace of VizTracer"),
    (r'"cat"\s*:\s*"[^"]*\b(?:toplevel|blink|v8|devtools\.timeline|cc,benchmark)\b', "a trace of the Chrome browser"),
    (r'"schema"\s*:\s*"[^"]*chakra|"nodes"\s*:\s*\[.*"ctrl_deps"', "an execution trace of PyTorch, without times"),
    (r'"segments"\s*:\s*\[|"device_traces"\s*:', "a memory snapshot of PyTorch"),
    (r'"schema_version"\s*:.*"verdict"\s*:', "a summary that roseinfer summarize wrote"),
    (r'"schema_version"\s*:.*"(?:traces|runs)"\s*:\s*\[', "a manifest or result of roseinfer"),
    (r"(?i)^\s*<(?:!doctype html|html)", "an HTML page"),
)
_RULES = tuple((re.compile(pattern.encode(), re.DOTALL), what) for pattern, what in _TEXTS)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]*")


def name_foreign(path: Path, opening: bytes) -> str | None:
    """Return what a file of another tool is, from its first bytes and its name; None if it is not recognized."""
    head = opening[:SNIFFED_BYTES]
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    name = path.name.lower().removesuffix(".gz")
    by_ending = next((what for ending, what in _ENDINGS if name.endswith(ending)), None)
    if by_ending is not None:
        return by_ending
    if head[257:262] == b"ustar":
        return _TAR
    if _PICKLE.match(head):
        return "a pickle, such as PyTorch's memory snapshots"
    if head[:1] == b"\n" and not _PRINTABLE.fullmatch(head[:64]):
        return "a protobuf, such as a Perfetto or XPlane trace"
    return next((what for rule, what in _RULES if rule.search(head)), None)


def foreign_message(path: Path, what: str) -> str:
    """Return the error message for a file of another tool."""
    return (
        f"{path}: not a trace of torch.profiler but {what}: "
        "give the .json or .json.gz file that export_chrome_trace wrote"
    )
