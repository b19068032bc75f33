"""roseinfer: an LLM inference engine that explains its own speed.

`__all__` lists the public API. Each name is imported on first use, so that `import roseinfer` alone does not load
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roseinfer.config import EngineConfig, SamplingParams
    from roseinfer.engine.engine import Engine
    from roseinfer.engine.factory import build_engine
    from roseinfer.engine.loaded_model import Message, Prompt
    from roseinfer.engine.outputs import RequestOutput, TokenEvent, TokenLogprobs
    from roseinfer.engine.schedulers import NaiveScheduler, OfflineScheduler, OnlineScheduler
    from roseinfer.errors import ModelError, RoseinferError, TraceError, UsageError

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "EngineConfig",
    "Message",
    "ModelError",
    "NaiveScheduler",
    "OfflineScheduler",
    "OnlineScheduler",
    "Prompt",
    "RequestOutput",
    "RoseinferError",
    "SamplingParams",
    "TokenEvent",
    "TokenLogprobs",
    "TraceError",
    "UsageError",
    "__version__",
    "build_engine",
]

_MODULES = {
    "Engine": "engine.engine",
    "EngineConfig": "config",
    "Message": "engine.loaded_model",
    "ModelError": "errors",
    "NaiveScheduler": "engine.schedulers",
    "OfflineScheduler": "engine.schedulers",
    "OnlineScheduler": "engine.schedulers",
    "Prompt": "engine.loaded_model",
    "RequestOutput": "engine.outputs",
    "RoseinferError": "errors",
    "SamplingParams": "config",
    "TokenEvent": "engine.outputs",
    "TokenLogprobs": "engine.outputs",
    "TraceError": "errors",
    "UsageError": "errors",
    "build_engine": "engine.factory",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
