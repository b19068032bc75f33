"""Building the engine for a command, with a progress bar. Imports torch: only commands call it, inside."""

import time

from roseinfer.cli import console
from roseinfer.config import EngineConfig
from roseinfer.engine.device import resolve_device
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.kernels import native


def load_engine(config: EngineConfig) -> Engine:
    """`build_engine`, showing the bytes of weights read, and telling what compiling cost."""
    if config.compile and resolve_device(config.device).type == "cpu":
        started_s = time.perf_counter()
        if native.load():
            console.note(f"[compile] made the CPU's kernels in {time.perf_counter() - started_s:.1f} s, once")
    with console.progress(f"Loading {config.model}", unit="bytes") as on_progress:
        return build_engine(config, on_progress=on_progress)
