"""Refusing flags that have no effect in combination with the others.

A config file may hold such keys, since other runs share the file.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.config import EngineConfig, RunConfig, SamplingParams
from roseinfer.config_messages import option_name
from roseinfer.errors import UsageError

_ALL_TOKENS = SamplingParams()
"""Defaults, with which no token is filtered out."""


def refuse_useless_flags(
    run: RunConfig, flags: Mapping[str, Mapping[str, Any]], *, requests_have_settings: bool
) -> None:
    """Raise UsageError for a flag in `flags` ({table: {key: value}}) that has no effect on `run`.

    With `requests_have_settings`, each request may set its own temperature, so filters of sampling may have an effect.
    """
    if not requests_have_settings:
        refuse_filters_of_greedy(run.sampling, flags.get("sampling", {}))
    _refuse_graphs_without_support(run.engine, flags.get("engine", {}))


def refuse_filters_of_greedy(sampling: SamplingParams, flags: Mapping[str, Any]) -> None:
    """Raise UsageError for a filter in `flags` ({key: value}) that leaves greedy decoding unchanged."""
    if sampling.temperature > 0:
        return
    for key in ("top_k", "top_p", "min_p"):
        if flags.get(key, getattr(_ALL_TOKENS, key)) != getattr(_ALL_TOKENS, key):
            raise UsageError(
                f"{option_name('sampling', key)} does nothing at temperature 0, which is greedy: "
                "add --do-sample or a --temperature above 0, or drop it"
            )


def _refuse_graphs_without_support(engine: EngineConfig, flags: Mapping[str, Any]) -> None:
    wanted = {"--cuda-graphs": flags.get("cuda_graphs"), "--max-decode-steps": flags.get("max_decode_steps", 1) > 1}
    flag = next((name for name, is_wanted in wanted.items() if is_wanted), None)
    if flag is None:
        return
    from roseinfer.engine.device import resolve_device  # imports torch

    if resolve_device(engine.device).type == "cpu":
        raise UsageError(f"{flag} is for a GPU, and this run uses the CPU: drop it")
    if not engine.cuda_graphs:
        raise UsageError(f"{flag} needs CUDA graphs, which are off: drop it, or add --cuda-graphs")
    if engine.attention == "gather":
        raise UsageError(f"{flag} needs CUDA graphs, which --attention gather does not support: drop it")
