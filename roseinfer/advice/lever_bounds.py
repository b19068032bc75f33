"""Upper bounds of what a change of settings can save, from a summary alone.

A bound is a share of a phase's time that the change cannot exceed, however good its kernels are: the idle time of the
device, the time above the floor of the hardware, the spans that disappear, or a ratio of batch sizes. A measured gain
above its bound is therefore a fault of the analysis.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from roseinfer.advice.levers import Settings, Situation
from roseinfer.trace.summary.budget_structs import PhaseBudget
from roseinfer.trace.summary.step_structs import PhaseRoofline
from roseinfer.trace.summary.trace_summary import Summary

_GATHER_SPANS = ("roseinfer.decode.build_batched_past", "roseinfer.attention", "roseinfer.kv.append")
"""Spans whose work another attention backend replaces."""
_ELEMENT_BYTES = {"float64": 8.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5}
_PROMPT_PHASES = ("prefill", "mixed")


class PhaseBounds(NamedTuple):
    """Upper bounds of what a change saves, as shares from 0 to 1."""

    by_phase: Mapping[str, float]
    """Bound of each recorded phase."""
    elsewhere: float
    """Bound of phases that are not recorded, and of the time outside steps; 1 if nothing is known about them."""

    def of_pass(self, seconds: Mapping[str, float]) -> float:
        """Return the bound of a whole pass in percent, from its time per phase, with that outside steps."""
        total = sum(seconds.values())
        saved = sum(self.by_phase.get(phase, self.elsewhere) * spent for phase, spent in seconds.items())
        return 100 * saved / total if total > 0 else 100.0

    def of_recording(self, summary: Summary) -> float:
        """Return the bound in percent of the recorded phases, weighed by their recorded time."""
        phases = summary.budget.phases if summary.budget else {}
        return self.of_pass({name: phase.wall_ms for name, phase in phases.items()})


def lever_bounds(lever: str, settings: Settings, now: Situation, summary: Summary) -> PhaseBounds | None:
    """Return the bounds of a change of one setting; None if nothing bounds it."""
    ratio = _ratio(lever, settings, now)
    if ratio is not None:
        return PhaseBounds({}, 1 - ratio)
    rule = _RULES.get(lever)
    phases = summary.budget.phases if summary.budget else {}
    if rule is None or not phases:
        return None
    case = _Case(settings, now, summary)
    shares = {name: _share(rule(case, name, phase)) for name, phase in phases.items()}
    if "attention" in settings and rule is _idle:  # graphs need another backend, which saves work of the device too
        other = {name: _share(_removed_spans(case, name, phase)) for name, phase in phases.items()}
        shares = {name: min(1.0, share + other[name]) for name, share in shares.items()}
    return PhaseBounds(shares, 1.0)


class _Case(NamedTuple):
    settings: Settings
    now: Situation
    summary: Summary

    def roofline(self, phase: str) -> PhaseRoofline | None:
        roofline = self.summary.roofline
        return roofline.phases.get(phase) if roofline else None


_Rule = Callable[[_Case, str, PhaseBudget], float]


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _ratio(lever: str, settings: Settings, now: Situation) -> float | None:
    """Return the cost per token that is left at best, if more of something divides it; None for other settings."""
    match lever:
        case "threads":
            return now.threads / int(settings["threads"])
        case "tensor_parallel":
            return now.engine.tensor_parallel / int(settings["tensor_parallel"])
        case "batch_size":
            return (now.engine.max_batch_size or 1) / int(settings["max_batch_size"])
        case "batch_tokens":
            return (now.engine.max_batch_tokens or 1) / int(settings["max_batch_tokens"])
        case _:
            return None


def _idle(_case: _Case, _name: str, phase: PhaseBudget) -> float:
    """The device waits for the host, or for its queue: graphs, and launches of several steps, remove at most that."""
    return (_host_ms(phase) + phase.queue_ms + phase.exposed_copy_ms) / phase.wall_ms if phase.wall_ms else 0.0


def _waits_for_host(_case: _Case, _name: str, phase: PhaseBudget) -> float:
    """Overlap hides the host's work behind the device's; on a CPU, both are the same cores."""
    return (_host_ms(phase) + phase.exposed_copy_ms) / phase.wall_ms if phase.wall_ms else 0.0


def _host_ms(phase: PhaseBudget) -> float:
    return float(sum(msgspec.structs.astuple(phase.host_ms)))


def _removed_spans(case: _Case, name: str, phase: PhaseBudget) -> float:
    """Another attention backend removes at most the spans of this one, and the idle time between their launches."""
    costs = case.summary.phase_costs.get(name)
    times = [step.ms for step in case.summary.steps.of_phase(name)]
    if costs is None or sum(times) <= 0:
        return 1.0
    wall_ms = sum(costs.spans[span].wall_ms for span in _GATHER_SPANS if span in costs.spans)
    if not case.now.is_gpu:
        return wall_ms * len(times) / sum(times)  # both are means over the steps
    gpu_ms = sum(span.gpu_ms for span in case.summary.spans if span.name in _GATHER_SPANS)
    busy_ms = sum(budget.wall_ms for budget in case.summary.budget.phases.values()) if case.summary.budget else 0.0
    return _idle(case, name, phase) + (gpu_ms / busy_ms if busy_ms else 1.0)


def _above_floor(case: _Case, name: str, _phase: PhaseBudget) -> float:
    """Other kernels reach at most the floor of the hardware."""
    row = case.roofline(name)
    return 1 - row.floor_ms / row.median_ms if row else 1.0


def _above_lower_floor(case: _Case, name: str, _phase: PhaseBudget) -> float:
    """Fewer bytes per number lower the floor by their ratio; nothing bounds a step that arithmetic bounds."""
    row = case.roofline(name)
    if row is None or row.bound == "compute":
        return 1.0
    before = _ELEMENT_BYTES.get(case.summary.recording.dtype or "", 4.0)
    before = min(before, _QUANTIZED_BYTES.get(case.now.engine.quantize, before))
    after = _QUANTIZED_BYTES.get(case.settings.get("quantize", ""), 0.0)
    after = after or _ELEMENT_BYTES.get(case.settings.get("dtype", ""), before)
    return 1 - row.floor_ms * after / before / row.median_ms


def _prompts(_case: _Case, name: str, _phase: PhaseBudget) -> float:
    """A prefix cache saves prompts, and no time of steps that only decode."""
    return 1.0 if name in _PROMPT_PHASES else 0.0


_RULES: Mapping[str, _Rule] = {
    "attention": _removed_spans,
    "graphs": _idle,
    "decode_steps": _idle,
    "overlap": _waits_for_host,
    "compile": _above_floor,
    "dtype": _above_lower_floor,
    "quantize": _above_lower_floor,
    "prefix_cache": _prompts,
}
"""Bound of each setting that acts on what a step does. Nothing bounds `chunk_bound`, which trades latency."""
