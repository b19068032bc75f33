"""Building the engine for a command, with a progress bar. Imports torch: only commands call it, inside."""

import functools
import time

from roseinfer.cli import console
from roseinfer.config import EngineConfig
from roseinfer.engine.device import resolve_device, resolve_dtype
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.cpu import native_library


def load_engine(config: EngineConfig) -> Engine:
    """`build_engine`, showing the bytes of weights read, and telling what compiling cost, or that it is missing."""
    device = resolve_device(config.device)
    if config.compile and device.type == "cpu":
        started_s = time.perf_counter()
        if native_library.load():
            console.note(f"[compile] made the CPU's kernels in {time.perf_counter() - started_s:.1f} s, once")
    with console.progress(f"Loading {config.model}", unit="bytes") as on_progress:
        engine = build_engine(config, on_progress=on_progress)
    if (
        config.compile is None
        and device.type == "cpu"
        and native_library.is_only_uncompiled(resolve_dtype(config.dtype, device))
    ):
        _tell_of_compiling()
    return engine


@functools.cache  # once a process
def _tell_of_compiling() -> None:
    console.note("[compile] the kernels for this CPU are not made yet: --compile makes them, once (about 3 s)")
