"""roseinfer: an LLM inference engine that explains its own speed.

`__all__` lists the public API. Each name is imported on first use, so that `import roseinfer` alone does not load
torch.
"""

from typing import TYPE_CHECKING

from roseinfer.version import __version__

if TYPE_CHECKING:
    from roseinfer.config import EngineConfig, ProfileConfig, SamplingParams
    from roseinfer.engine.engine import Engine
    from roseinfer.engine.factory import build_engine
    from roseinfer.engine.outputs import RequestOutput, TokenEvent, TokenLogprobs
    from roseinfer.engine.prompt import Chat, Message, Prompt
    from roseinfer.engine.schedulers import NaiveScheduler, OfflineScheduler, OnlineScheduler
    from roseinfer.errors import ModelError, RoseinferError, TraceError, UsageError
    from roseinfer.profiling.session import ProfileSession, SessionResult, profile_session
    from roseinfer.trace.comparing.trace_comparison import compare
    from roseinfer.trace.pipeline import summarize_trace as summarize
    from roseinfer.trace.summary.trace_summary import Summary


_HOMES = {
    "Chat": "engine.prompt",
    "Engine": "engine.engine",
    "EngineConfig": "config",
    "Message": "engine.prompt",
    "ModelError": "errors",
    "NaiveScheduler": "engine.schedulers",
    "OfflineScheduler": "engine.schedulers",
    "OnlineScheduler": "engine.schedulers",
    "ProfileConfig": "config",
    "ProfileSession": "profiling.session",
    "Prompt": "engine.prompt",
    "RequestOutput": "engine.outputs",
    "RoseinferError": "errors",
    "SamplingParams": "config",
    "SessionResult": "profiling.session",
    "Summary": "trace.summary.trace_summary",
    "TokenEvent": "engine.outputs",
    "TokenLogprobs": "engine.outputs",
    "TraceError": "errors",
    "UsageError": "errors",
    "build_engine": "engine.factory",
    "compare": "trace.comparing.trace_comparison",
    "profile_session": "profiling.session",
    "summarize": "trace.pipeline:summarize_trace",
}
"""Module of each public name, with the name in it after a colon if that differs."""

__all__ = [
    "Chat",
    "Engine",
    "EngineConfig",
    "Message",
    "ModelError",
    "NaiveScheduler",
    "OfflineScheduler",
    "OnlineScheduler",
    "ProfileConfig",
    "ProfileSession",
    "Prompt",
    "RequestOutput",
    "RoseinferError",
    "SamplingParams",
    "SessionResult",
    "Summary",
    "TokenEvent",
    "TokenLogprobs",
    "TraceError",
    "UsageError",
    "__version__",
    "build_engine",
    "compare",
    "profile_session",
    "summarize",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from roseinfer.torch_environment import prepare_torch

    prepare_torch()
    module, _, own_name = _HOMES[name].partition(":")
    value: object = getattr(import_module(f"{__name__}.{module}"), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
