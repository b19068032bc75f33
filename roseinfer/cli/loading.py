"""Building the engine for a command, with a progress bar. Imports torch: only commands call it, inside."""

from roseinfer.cli import console
from roseinfer.config import EngineConfig
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine


def load_engine(config: EngineConfig) -> Engine:
    """`build_engine`, showing the bytes of weights read."""
    with console.progress(f"Loading {config.model}", unit="bytes") as on_progress:
        return build_engine(config, on_progress=on_progress)
