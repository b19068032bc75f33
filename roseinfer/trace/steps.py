"""Steps: which spans of a trace are one launch of the model over one batch, and what their labels say.

Engines label their steps differently; the first kind that a trace has is used, in the order of `_KINDS`.
"""

import re
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.columns import Ints, Trace

PHASES = ("prefill", "decode", "mixed", "step")

_STUB_SHARE = 0.1
"""A trailing ProfilerStep shorter than this share of the median began when the recording stopped."""


class StepLabel(msgspec.Struct, frozen=True):
    """What the name of a step says."""

    phase: str
    batch: int | None = None
    tokens: int | None = None


class Steps(msgspec.Struct, frozen=True, eq=False):
    """The steps of a trace in order of time; one array entry a step."""

    source: str | None
    start_ns: Ints
    end_ns: Ints
    thread: NDArray[np.int32]
    labels: list[StepLabel]

    def __len__(self) -> int:
        return len(self.labels)


_FIELD = re.compile(r"(\w+)=(\d+)")
_ROSEINFER = re.compile(r"roseinfer\.step\[(\w+)([^\]]*)\]$")
_SGLANG = re.compile(r"step\[(\w+)([^\]]*)\]$")
_VLLM = re.compile(r"execute_context_(\d+)\((\d+)\)_generation_(\d+)\((\d+)\)$")
_VLLM_OLD = re.compile(r"execute_new_(\d+)_cached_(\d+)$")
_PROFILER = re.compile(r"ProfilerStep#\d+$")
_ORIGIN = "roseinfer.decode_step_sessions.total"


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
    phase = {"extend": "prefill"}.get(found.group(1).lower(), found.group(1).lower())
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


def _origin(name: str) -> StepLabel | None:
    return StepLabel("decode") if name == _ORIGIN else None


def _profiler(name: str) -> StepLabel | None:
    return StepLabel("step") if _PROFILER.match(name) else None


_KINDS: tuple[tuple[str, Callable[[str], StepLabel | None]], ...] = (
    ("roseinfer.step", _roseinfer),
    ("vLLM", _vllm),
    ("SGLang", _sglang),
    (_ORIGIN, _origin),
    ("ProfilerStep", _profiler),
)


def find_steps(trace: Trace) -> Steps:
    """The steps of a trace; the trailing `ProfilerStep#N` that only marks the end of the recording is left out."""
    spans = trace.spans
    for source, read in _KINDS:
        label_of = {index: read(trace.names[index]) for index in np.unique(spans.name).tolist()}
        at = np.flatnonzero(np.isin(spans.name, [index for index, label in label_of.items() if label is not None]))
        if source == "ProfilerStep":
            at = np.setdiff1d(at, stub_spans(trace))
        if len(at):
            at = at[np.argsort(spans.start_ns[at], kind="stable")]
            labels = [label for index in spans.name[at].tolist() if (label := label_of[index]) is not None]
            return Steps(source, spans.start_ns[at], spans.end_ns[at], spans.thread[at], labels)
    none = np.zeros(0, np.int64)
    return Steps(None, none, none, np.zeros(0, np.int32), [])


def stub_spans(trace: Trace) -> Ints:
    """Spans that belong in no statistic: a thread's trailing ProfilerStep, cut off by the end of the recording."""
    spans = trace.spans
    named = [index for index in np.unique(spans.name).tolist() if _PROFILER.match(trace.names[index])]
    steps = np.flatnonzero(np.isin(spans.name, named))
    stubs: list[int] = []
    for thread in np.unique(spans.thread[steps]).tolist():
        at = steps[spans.thread[steps] == thread]
        duration = spans.end_ns[at] - spans.start_ns[at]
        if len(at) > 1:
            last = int(at[-1])
            short = duration[-1] < _STUB_SHARE * np.median(duration[:-1])
            if short or not _has_work(trace, last):
                stubs.append(last)
    return np.array(stubs, np.int64)


def _has_work(trace: Trace, span: int) -> bool:
    """Whether any operator or runtime call, save a synchronize, began inside the span."""
    low, high = trace.spans.start_ns[span], trace.spans.end_ns[span]
    if np.any((trace.ops.start_ns >= low) & (trace.ops.start_ns < high)):
        return True
    calls = trace.calls.name[(trace.calls.start_ns >= low) & (trace.calls.start_ns < high)]
    return any("Synchronize" not in trace.names[index] for index in np.unique(calls).tolist())
