"""Building the engine for a command, with its progress.

Imports torch: commands import this module only when they run.
"""

import functools
import time
from contextlib import ExitStack

import msgspec

from roseinfer.cli import console
from roseinfer.config import EngineConfig
from roseinfer.config_messages import option_name
from roseinfer.engine.device import device_name, resolve_device, resolve_dtype
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.cpu import native_library
from roseinfer.models.shapes import SHAPES
from roseinfer.progress import ProgressCallback
from roseinfer.weights.resolve import ModelSource, resolve


def find_model(config: EngineConfig) -> ModelSource:
    """Find the model that `config` names, and show the download of a model of the Hugging Face Hub."""
    stage: ProgressCallback | None = None
    with ExitStack() as stack:

        def on_download(done: int, total: int) -> None:
            nonlocal stage
            if stage is None:
                line = console.progress(f"Downloading {config.model}", unit="bytes", ticks=True)
                stage = stack.enter_context(line) or _nowhere
            stage(done, total)

        return resolve(config.model, config.load_format, SHAPES, on_download)


def _nowhere(done: int, total: int) -> None:
    """Receives progress that nobody sees."""


def load_engine(config: EngineConfig, source: ModelSource | None = None) -> Engine:
    """Build the engine, and show what loads or compiles. Note on stderr that kernels were compiled, or are missing.

    `source` is what `find_model` found, if it was called already.
    """
    source = source or find_model(config)
    device = resolve_device(config.device)
    if config.compile and device.type == "cpu":
        started_s = time.perf_counter()
        with console.progress("Compiling the CPU kernels", ticks=True):
            is_compiled = native_library.load()
        if is_compiled:
            console.note(
                f"[compile] compiled the CPU kernels in {time.perf_counter() - started_s:.1f} s; later runs reuse them"
            )
    with console.progress(f"Loading {config.model}", unit="bytes", ticks=True) as on_progress:
        engine = build_engine(config, on_progress=on_progress, source=source)
    if (
        config.compile is None
        and device.type == "cpu"
        and native_library.is_only_uncompiled(resolve_dtype(config.dtype, device))
    ):
        _note_missing_kernels()
    if device.type == "cuda":
        _note_limits(engine)
    return engine


def _note_limits(engine: Engine) -> None:
    """Say on stderr which limits of a step follow the device."""
    config, limits = engine.config, engine.limits
    chosen = [
        f"{value} ({option_name('engine', key)})"
        for key, value in msgspec.structs.asdict(limits).items()
        if getattr(config, key) is None
    ]
    if chosen:
        console.note(f"[limits] chosen for this model and {device_name(engine.runner.device)}: {', '.join(chosen)}")


@functools.cache  # one note per process
def _note_missing_kernels() -> None:
    console.note("[compile] the kernels for this CPU are not compiled yet: --compile does it once, in up to 30 s")
