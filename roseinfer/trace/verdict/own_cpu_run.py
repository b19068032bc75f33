"""Rules for CPU runs of this program: the step's time beside its floor, and what keeps it from the floor."""

from typing import NamedTuple

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.summary.step_structs import PhaseRoofline
from roseinfer.trace.verdict.cpu_operators import QUANTIZED, is_any, is_product
from roseinfer.trace.verdict.cpu_rules import cpu_ops, operators_percent
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import DISTURBED, IDLE_CORES_PERCENT, NEAR_CEILING_PERCENT

_COMPILED = "roseinfer::"
"""Namespace of the operators that the compiled CPU kernels show as."""


class _Floor(NamedTuple):
    phase: str
    row: PhaseRoofline


def floor_of(judged: JudgedTrace) -> _Floor | None:
    """Return the phase that takes most of the recorded time, with its floor; None without a manifest."""
    phases = judged.roofline.phases if judged.roofline else {}
    if not phases:
        return None
    main = judged.main_phase
    phase = main if main in phases else max(phases, key=lambda one: phases[one].steps * phases[one].median_ms)
    return _Floor(phase, phases[phase])


def beside_floor(floor: _Floor) -> str:
    """Return a text such as `a decode step takes 9.8 ms, 2.1 times its floor of 4.7 ms (MBU 48 %)`."""
    row = floor.row
    times = row.median_ms / row.floor_ms
    return (
        f"a {floor.phase} step takes {duration(row.median_ms)}, {times:.1f} times its floor of "
        f"{duration(row.floor_ms)} ({_utilization(row)})"
    )


def _utilization(row: PhaseRoofline) -> str:
    return f"MBU {row.mbu_percent:.0f} %" if row.bound == "memory" else f"MFU {row.mfu_percent:.0f} %"


def find_idle_cores(judged: JudgedTrace) -> list[Finding]:
    """Return a finding if the run had fewer threads than cores, and cores were idle."""
    host = judged.host
    if host is None or not 0 < host.threads < host.cores:
        return []
    idle = host.cores - host.cores_used if host.cores_idle is None else host.cores_idle
    if 100 * idle < IDLE_CORES_PERCENT * host.cores:
        return []
    maker = FindingMaker(judged, "idle_cores", "cpu")
    saves_ms = judged.total.compute_ms * (1 - host.threads / host.cores)
    return [
        maker.make(
            saves_ms,
            Place(),
            f"{idle:.1f} of {counted(host.cores, 'core')} were idle; the run had {counted(host.threads, 'thread')}.",
            f"Use more threads, for the cores that are idle: set OMP_NUM_THREADS={host.cores}.",
        )
    ]


def find_products(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the matrix products: what the floor says that they are bound by, and what lowers it."""
    floor, ops = floor_of(judged), cpu_ops(judged)
    products = [op for op in ops if is_product(op)]
    if floor is None or not products:
        return []
    row, first = floor.row, products[0]
    share = sum(op.percent for op in products)
    maker = FindingMaker(judged, "matrix_products", "memory" if row.bound == "memory" else "arithmetic")
    spent_ms = judged.total.compute_ms * share / 100
    near = max(row.mbu_percent, row.mfu_percent) >= NEAR_CEILING_PERCENT
    what = "memory" if row.bound == "memory" else "arithmetic"
    reach = f"{row.mbu_percent:.0f} % of the measured bandwidth and {row.mfu_percent:.0f} % of the measured FLOP rate"
    sentence = (
        f"Matrix products take {share:.0f} % of operator time, {first.name} most ({duration(first.self_ms)} in "
        f"{counted(first.calls, 'call')}). A {floor.phase} step reaches {reach}, without the profiler."
    )
    advice = f"{_bound(what, near, first.name)}: {_helps(judged, row)}."
    return [maker.make(min(spent_ms, judged.total.compute_ms), Place(operator=first.name), sentence, advice)]


def _bound(what: str, near: bool, name: str) -> str:
    if near:
        return f"{what.capitalize()} bounds {name}"
    return f"{name} is far from the speed of {what}"


def _helps(judged: JudgedTrace, row: PhaseRoofline) -> str:
    ops = cpu_ops(judged)
    compiled = sum(op.percent for op in ops if op.name.startswith(_COMPILED)) >= 50
    quantized = judged.is_quantized or any(is_any(op, QUANTIZED) for op in ops)
    choices: list[str] = []
    if row.bound == "memory":
        if not compiled and max(row.mbu_percent, row.mfu_percent) < NEAR_CEILING_PERCENT:
            choices.append("run compiled kernels (--compile)")
        if not quantized:
            choices.append("store weights in fewer bits (--quantize int8 or int4)")
        elif judged.recording.quantize != "int4" and not any("int4" in op.name for op in ops):
            choices.append("store weights in fewer bits still (--quantize int4)")
        choices.append("use a larger batch (--max-batch-size), which shares each read of the weights")
    else:
        if not compiled:
            choices.append("run compiled kernels (--compile)")
        if (judged.recording.dtype or "") == "float32":
            choices.append("use a dtype that the CPU has instructions for (--dtype bfloat16)")
        choices.append("compute less, such as shorter prompts or a prefix cache that hits")
    return "; or ".join(choices)


def find_own_costs(judged: JudgedTrace) -> list[Finding]:
    """Return the findings of a CPU run of this program, apart from those that any CPU run can have."""
    return [*find_idle_cores(judged), *find_products(judged)]


def floor_evidence(judged: JudgedTrace) -> list[str]:
    """Return a line that puts the main step beside its floor, and a line about the cores if they are known."""
    floor = floor_of(judged)
    if floor is None:
        return []
    text = beside_floor(floor)
    is_baseline = judged.roofline is not None and judged.roofline.source == "baseline"
    source = "without the profiler" if is_baseline else "under the profiler"
    lines = [f"{text[0].upper()}{text[1:]}, {source}; operators run {operators_percent(judged):.0f} % of the trace."]
    traced = judged.steps.phases.get(floor.phase)
    if is_baseline and traced is not None and floor.row.median_ms > DISTURBED * traced.median_ms > 0:
        lines.append(
            f"The {floor.phase} step was faster under the profiler ({duration(traced.median_ms)}): other programs used "
            "the machine during the unprofiled pass, so that its times are too long."
        )
    return [*lines, *_cores(judged)]


def _cores(judged: JudgedTrace) -> list[str]:
    """Return a line about threads and cores, also those that other programs used."""
    host = judged.host
    if host is None or host.threads <= 0:
        return []
    others = 0.0 if host.cores_idle is None else host.cores - host.cores_used - host.cores_idle
    is_shared = 100 * others >= IDLE_CORES_PERCENT * host.cores
    shared = f", other programs {others:.1f}: its times are too long" if is_shared else ""
    return [
        f"The run computed with {counted(host.threads, 'thread')} on {counted(host.cores, 'core')}, and used "
        f"{host.cores_used:.1f} cores on average{shared}."
    ]
