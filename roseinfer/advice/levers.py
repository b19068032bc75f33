"""The engine's settings that can act on a finding or a what-if bound: the only place that connects the two.

To connect a new rule, add a row to `ADVISED_BY`. To add a setting, write its values as a function like the others, and
add it to `LEVERS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from roseinfer.config import EngineConfig, Mode
from roseinfer.config_messages import option_name

Settings = dict[str, Any]
"""Keys of the config's table `[engine]`, with the values to set."""

_DECODE_STEPS = (4, 16)
_BATCH_FACTORS = (2, 4)
_RANKS = (2, 4, 8)
_LONG_ITL_MS = 500.0
_LONG_PROMPT = 64
"""Mean tokens of a prompt from which chunks of prompts can delay decodes."""


class Situation(NamedTuple):
    """Facts of a run and its machine that decide which values of a setting are worth a try."""

    engine: EngineConfig
    """Settings of the run, with the limits of a step that it chose filled in."""
    is_gpu: bool
    num_gpus: int
    threads: int
    cores: int
    """Physical cores that the run could use; 0 if unknown."""
    requests: int
    """Requests of the workload that can be in the engine at the same time."""
    prompt_tokens: int
    """Tokens of all prompts of the workload."""
    mode: Mode
    shares_prefixes: bool
    """True if prompts of the workload have a common prefix or are repeated."""
    is_quantized_file: bool
    """True if the model's file stores quantized weights."""


class Lever(NamedTuple):
    """One setting of the engine."""

    values: Callable[[Situation], list[Settings]]
    """Returns what to try: each value with the other settings that it needs."""
    keeps_numbers: bool = True
    """False if the setting changes the precision of the model's numbers, and so the text of its completions."""


class Proposal(NamedTuple):
    """A change of settings that a finding or bound advises."""

    finding: str
    """Key of the finding, or id of the bound."""
    rule: str
    lever: str
    settings: Settings
    keeps_numbers: bool


def _attention(now: Situation) -> list[Settings]:
    return [{"attention": "paged"}] if now.engine.attention != "paged" else []


def _graphs(now: Situation) -> list[Settings]:
    return [{"cuda_graphs": True, "attention": "paged"}] if now.is_gpu and not _has_graphs(now.engine) else []


def _decode_steps(now: Situation) -> list[Settings]:
    if not now.is_gpu:
        return []
    more = [steps for steps in _DECODE_STEPS if steps > now.engine.max_decode_steps]
    if not more and not _has_graphs(now.engine):  # they do nothing without graphs, which are tried on their own
        return []
    return [{"max_decode_steps": steps, "cuda_graphs": True, "attention": "paged"} for steps in more]


def _overlap(now: Situation) -> list[Settings]:
    is_on = now.is_gpu if now.engine.overlap is None else now.engine.overlap
    return [] if is_on else [{"overlap": True}]


def _batch_size(now: Situation) -> list[Settings]:
    size = now.engine.max_batch_size or 1
    sizes = {min(factor * size, now.requests) for factor in _BATCH_FACTORS}
    return [
        {"max_batch_size": larger, "max_batch_tokens": max(now.engine.max_batch_tokens or 0, larger)}
        for larger in sorted(sizes)
        if larger > size
    ]


def _batch_tokens(now: Situation) -> list[Settings]:
    tokens = now.engine.max_batch_tokens or now.prompt_tokens
    return [{"max_batch_tokens": factor * tokens} for factor in _BATCH_FACTORS if tokens < now.prompt_tokens]


def _chunk_bound(now: Situation) -> list[Settings]:
    """A longer bound lets a step with decodes compute more prompt tokens: throughput for latency."""
    bound = now.engine.max_itl_ms
    if now.requests <= 1 or now.prompt_tokens < _LONG_PROMPT * now.requests:
        return []
    if bound is None:
        return [{"max_itl_ms": _LONG_ITL_MS}] if now.mode == "online" else []
    return [{"max_itl_ms": factor * bound} for factor in _BATCH_FACTORS]


def _dtype(now: Situation) -> list[Settings]:
    return [{"dtype": "bfloat16"}] if now.engine.dtype in ("float32", "float64") else []


def _quantize(now: Situation) -> list[Settings]:
    """Together with compiled kernels: without them, products of quantized weights are slower than others."""
    is_quantized = now.is_quantized_file or now.engine.quantize == "int4"
    if now.is_gpu or is_quantized:
        return []
    forms = [form for form in ("int8", "int4") if form != now.engine.quantize]
    return [{"quantize": form, "compile": True, "attention": "paged"} for form in forms]


def _compile(now: Situation) -> list[Settings]:
    """Compiled decode steps need the paged cache; with the gathered one, only the products are compiled."""
    return [] if now.is_gpu or now.engine.compile else [{"compile": True, "attention": "paged"}]


def _threads(now: Situation) -> list[Settings]:
    return [{"threads": now.cores}] if not now.is_gpu and 0 < now.threads < now.cores else []


def _prefix_cache(now: Situation) -> list[Settings]:
    return [{"prefix_cache": True}] if now.shares_prefixes and not now.engine.prefix_cache else []


def _tensor_parallel(now: Situation) -> list[Settings]:
    ranks = now.engine.tensor_parallel
    return [{"tensor_parallel": more} for more in _RANKS if now.is_gpu and ranks < more <= now.num_gpus]


def _has_graphs(engine: EngineConfig) -> bool:
    return engine.cuda_graphs and engine.attention == "paged"


LEVERS: Mapping[str, Lever] = {
    "attention": Lever(_attention),
    "graphs": Lever(_graphs),
    "decode_steps": Lever(_decode_steps),
    "overlap": Lever(_overlap),
    "batch_size": Lever(_batch_size),
    "batch_tokens": Lever(_batch_tokens),
    "chunk_bound": Lever(_chunk_bound),
    "compile": Lever(_compile),
    "threads": Lever(_threads),
    "prefix_cache": Lever(_prefix_cache),
    "tensor_parallel": Lever(_tensor_parallel),
    "dtype": Lever(_dtype, keeps_numbers=False),
    "quantize": Lever(_quantize, keeps_numbers=False),
}

_LAUNCHES = ("attention", "graphs", "decode_steps", "overlap", "batch_size")
_HOST = ("overlap", "graphs", "decode_steps", "attention", "batch_size")
_DEVICE_WORK = ("attention", "dtype", "batch_size", "batch_tokens", "chunk_bound", "prefix_cache", "tensor_parallel")
_CPU_WORK = ("compile", "attention", "batch_size", "batch_tokens", "chunk_bound", "prefix_cache", "quantize", "dtype")

ADVISED_BY: Mapping[str, tuple[str, ...]] = {
    # Findings, by id.
    "launch_overhead": _LAUNCHES,
    "repeated_launches": _LAUNCHES,
    "host_work": _HOST,
    "host_places": _HOST,
    "synchronizing_call": _HOST,
    "allocation": ("attention", "graphs"),
    "device_queue": ("graphs", "attention", "decode_steps"),
    "exposed_copy": ("overlap", "attention", "graphs"),
    "largest_kernel": _DEVICE_WORK,
    "no_tensor_cores": ("dtype",),
    "far_from_bound": _DEVICE_WORK,
    "idle_cores": ("threads",),
    "matrix_products": _CPU_WORK,
    "slow_kernels": _CPU_WORK,
    "largest_operator": _CPU_WORK,
    "small_operators": ("compile", "attention", "batch_size"),
    "outside_operators": ("compile", "attention", "batch_size", "overlap"),
    # Findings that no setting of the engine acts on.
    "data_loading": (),
    "exposed_collective": (),
    "rank_waits": (),
    "not_recorded": (),
    "memory_growth": (),
    # What-if bounds, by id.
    "no_host_late_gaps": _HOST,
    "no_launch_gaps": _LAUNCHES,
    "one_launch_per_step": _LAUNCHES,
    "one_kernel_per_call": ("attention", "graphs"),
    "no_idle_time": (*_LAUNCHES, "tensor_parallel"),
    "data_ahead": (),
    "hidden_communication": (),
    "collectives_at_once": (),
    "hidden_copies": ("overlap", "graphs"),
}
"""Settings that can act on each finding and each bound. Test: every rule of a verdict is listed."""


def rule_of(key: str) -> str:
    """Return the id of the rule that made a key: `host_work` of `host_work|roseinfer.schedule`."""
    return key.partition("|")[0].partition("#")[0]


def proposals(findings: list[str], now: Situation) -> list[Proposal]:
    """Return the changes that findings and bounds advise, given by key in order of their size.

    A change that several of them advise belongs to the first. Changes that would change nothing are left out.
    """
    found: dict[tuple[tuple[str, Any], ...], Proposal] = {}
    for key in findings:
        rule = rule_of(key)
        for name in ADVISED_BY.get(rule, ()):
            lever = LEVERS[name]
            for settings in lever.values(now):
                new = changed(now.engine, settings)
                if new:
                    proposal = Proposal(key, rule, name, new, lever.keeps_numbers)
                    found.setdefault(tuple(sorted(new.items())), proposal)
    return list(found.values())


def changed(engine: EngineConfig, settings: Settings) -> Settings:
    """Return the settings that differ from those of an engine."""
    return {key: value for key, value in settings.items() if getattr(engine, key) != value}


def applied(engine: EngineConfig, settings: Settings) -> EngineConfig:
    """Return an engine's settings with some of them changed."""
    return msgspec.structs.replace(engine, **settings)


def as_options(settings: Settings) -> str:
    """Return settings as options of the command line: `--attention paged --no-overlap`."""
    return " ".join(_option(key, value) for key, value in settings.items())


def _option(key: str, value: object) -> str:
    name = option_name("engine", key)
    if isinstance(value, bool):
        return name if value else f"--no-{name.removeprefix('--')}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
