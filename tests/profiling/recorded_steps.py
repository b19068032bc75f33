"""The steps in a recorded trace."""

import gzip
import json
from pathlib import Path


def step_names(trace: Path) -> list[str]:
    """Return the names of the profiler's steps in a compressed trace, in order of time."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    spans = [event for event in events if event.get("cat") == "user_annotation"]
    return [
        event["name"] for event in sorted(spans, key=lambda e: e["ts"]) if event["name"].startswith("ProfilerStep#")
    ]
