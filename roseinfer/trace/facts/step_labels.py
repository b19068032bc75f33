"""Parse the names of step spans, which each engine writes in its own way.

Supported are roseinfer, vLLM, SGLang, torch.profiler itself, and the tutorial engine that roseinfer grew from, which
marked its decode steps with one unlabelled span.
"""

import re
from collections.abc import Callable

import msgspec

from roseinfer.trace.reading.categories import PROFILER_STEP

_FIELD = re.compile(r"(\w+)=(\d+)")
_ROSEINFER = re.compile(r"roseinfer\.step\[(\w+)([^\]]*)\]$")
_SGLANG_PHASES = {
    "extend": "prefill",
    "split_prefill": "prefill",
    "target_verify": "verify",
    "draft_extend": "draft",
    "draft_extend_v2": "draft",
}
"""Phases by SGLang's forward mode, where the names differ."""
_SGLANG = re.compile(r"step\[(\w+)([^\]]*)\]$")
_VLLM = re.compile(r"execute_(?:\d+_)?context_(\d+)\((?:sq)?(\d+)[^)]*\)_generation_(\d+)\((?:sq)?(\d+)[^)]*\)$")
"""Requests and new tokens of prefills, then of decodes; in detailed labels, sums of other figures follow the tokens."""
_VLLM_OLD = re.compile(r"execute_new_(\d+)_cached_(\d+)$")
OWN_STEPS = "roseinfer.step"
"""Kind of the spans that roseinfer itself marks its steps with."""
_TUTORIAL_ENGINE = "roseinfer.decode_step_sessions.total"


class StepLabel(msgspec.Struct, frozen=True):
    """Phase and size of a step, parsed from the name of its span."""

    phase: str
    """Phase of the step, such as "prefill", "decode" or "mixed"; "step" if the name does not tell."""
    batch: int | None = None
    """Requests in the step, None if the name does not tell."""
    tokens: int | None = None
    """Tokens computed in the step, None if the name does not tell."""


def _fields(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in _FIELD.findall(text)}


def _roseinfer(name: str) -> StepLabel | None:
    found = _ROSEINFER.match(name)
    if not found:
        return None
    fields = _fields(found.group(2))
    return StepLabel(found.group(1), fields.get("bs"), fields.get("tokens"))


def _sglang(name: str) -> StepLabel | None:
    found = _SGLANG.match(name)
    if not found:
        return None
    mode = found.group(1).lower()
    phase = _SGLANG_PHASES.get(mode, mode)
    fields = _fields(found.group(2))
    batch = fields.get("bs")
    tokens = fields.get("toks")
    if tokens is None and "ext" in fields:
        tokens = fields["ext"] + fields.get("dec", 0)
    return StepLabel(phase, batch, batch if tokens is None and phase == "decode" else tokens)


def _vllm(name: str) -> StepLabel | None:
    found = _VLLM.match(name)
    if found:
        context, context_tokens, generation, generation_tokens = (int(part) for part in found.groups())
        return StepLabel(
            _phase_of(context, generation), context + generation or None, context_tokens + generation_tokens or None
        )
    found = _VLLM_OLD.match(name)
    if found:
        new, cached = int(found.group(1)), int(found.group(2))
        return StepLabel(_phase_of(new, cached), new + cached or None, cached if cached and not new else None)
    return None


def _phase_of(prefills: int, decodes: int) -> str:
    if prefills and decodes:
        return "mixed"
    return "prefill" if prefills else "decode" if decodes else "idle"


def _tutorial_engine(name: str) -> StepLabel | None:
    return StepLabel("decode") if name == _TUTORIAL_ENGINE else None


def _profiler(name: str) -> StepLabel | None:
    return StepLabel("step") if PROFILER_STEP.match(name) else None


STEP_KINDS: tuple[tuple[str, Callable[[str], StepLabel | None]], ...] = (
    (OWN_STEPS, _roseinfer),
    ("SGLang", _sglang),  # before vLLM, whose labels it also writes, around its own
    ("vLLM", _vllm),
    (_TUTORIAL_ENGINE, _tutorial_engine),
    ("ProfilerStep", _profiler),
)
