"""Traces for tests: two recorded ones, and a writer of synthetic ones in every layout that occurs."""

import gzip
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
TUTORIAL = DATA / "origin_gather_decode_h200.json.gz"
"""Three decode steps of the tutorial engine that this project started from, on an H200: host-bound.

The engine gathers the KV cache of every request in every step and launches all kernels one by one.
"""
MATMUL = DATA / "gpu_bound_matmul_h200.json.gz"
"""Three steps of large matrix products on an H200: GPU-bound."""

MAIN = {"pid": 412, "tid": 412}
LAYOUTS = ("kineto", "lines", "dense", "bare", "indented", "gzip")


def event(cat: str, name: str, ts: float, dur: float, **more: Any) -> dict[str, Any]:
    """Return a complete event of the main thread; `more` sets `args` and other fields."""
    return {"ph": "X", "cat": cat, "name": name, **MAIN, "ts": ts, "dur": dur, **more}


def launch(ts: float, dur: float, correlation: int, name: str = "cudaLaunchKernel") -> dict[str, Any]:
    return event("cuda_runtime", name, ts, dur, args={"cbid": 211, "correlation": correlation})


def kernel(
    ts: float, dur: float, correlation: int, name: str = "k", *, stream: int = 7, device: int = 0, cat: str = "kernel"
) -> dict[str, Any]:
    args = {"device": device, "stream": stream, "correlation": correlation, "grid": [1, 1, 1]}
    return {"ph": "X", "cat": cat, "name": name, "pid": device, "tid": stream, "ts": ts, "dur": dur, "args": args}


def as_text(events: list[Any], layout: str) -> bytes:
    """Return the content of a file with these events, in one of LAYOUTS."""
    top = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "Test GPU"}, {"id": 1, "name": "Test GPU"}]}
    if layout == "dense":
        return json.dumps({"traceEvents": events, **top}, separators=(",", ":")).encode()
    if layout == "bare":
        return json.dumps(events).encode()
    if layout == "indented":
        return json.dumps({**top, "traceEvents": events}, indent=2).encode()
    head = json.dumps(top, indent=2)[:-2]
    if layout == "lines":
        body = ",\n".join(json.dumps(event) for event in events)
    else:
        body = ",\n".join("  " + json.dumps(event, indent=4)[:-1] + "  }" for event in events)
    text = f'{head},\n  "traceEvents": [\n{body}\n  ],\n  "traceName": "made up"\n}}'.encode()
    return gzip.compress(text) if layout == "gzip" else text


def write(path: Path, events: list[Any], layout: str = "kineto") -> Path:
    path.write_bytes(as_text(events, layout))
    return path
