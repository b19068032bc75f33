"""Rules for CPU runs of this program: the step's time beside its floor, and what keeps it from the floor."""

from typing import Literal, NamedTuple

from roseinfer.disturbance import WAITING_PERCENT, waiting_percent
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.finding_structs import Finding, OpSummary, Place
from roseinfer.trace.summary.step_structs import PhaseRoofline
from roseinfer.trace.verdict.cpu_operators import QUANTIZED, is_any, is_product
from roseinfer.trace.verdict.cpu_rules import cpu_ops, operators_percent
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import DISTURBED, IDLE_CORES_PERCENT, NEAR_CEILING_PERCENT

_COMPILED = "roseinfer::"
"""Namespace of the operators that the compiled CPU kernels show as."""
_NAMED = 3
"""Number of operators that a finding about slow kernels names."""


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
    ranks = _ranks(judged)
    if host is None or not 0 < host.threads < (threads := host.cores // ranks):
        return []
    if waiting_percent(host.threads_waiting, host.threads, host.cores) >= WAITING_PERCENT:
        return []  # other programs wanted the cores, too
    idle = host.cores - ranks * host.cores_used if host.cores_idle is None else host.cores_idle
    if 100 * idle < IDLE_CORES_PERCENT * host.cores:
        return []
    maker = FindingMaker(judged, "idle_cores", "cpu")
    saves_ms = judged.total.compute_ms * (1 - host.threads / threads)
    each = f"each of {ranks} ranks" if ranks > 1 else "the run"
    return [
        maker.make(
            saves_ms,
            Place(),
            f"{idle:.1f} of {counted(host.cores, 'core')} were idle; {each} had {counted(host.threads, 'thread')}.",
            f"Use more threads, for the cores that are idle: give --threads {threads}.",
        )
    ]


def find_products(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the matrix products if memory or arithmetic bounds the step, and what lowers its floor."""
    floor, ops = floor_of(judged), cpu_ops(judged)
    products = [op for op in ops if is_product(op)]
    if floor is None or not products or not _is_near_floor(floor.row):
        return []
    row, first = floor.row, products[0]
    share = sum(op.percent for op in products)
    what: Literal["memory", "arithmetic"] = "memory" if row.bound == "memory" else "arithmetic"
    maker = FindingMaker(judged, "matrix_products", what)
    spent_ms = judged.total.compute_ms * share / 100
    reach = f"{row.mbu_percent:.0f} % of the measured bandwidth and {row.mfu_percent:.0f} % of the measured FLOP rate"
    sentence = (
        f"Matrix products take {share:.0f} % of operator time, {first.name} most ({duration(first.self_ms)} in "
        f"{counted(first.calls, 'call')}). A {floor.phase} step reaches {reach}, {_source(judged)}."
    )
    advice = f"{what.capitalize()} bounds {first.name}: {_helps(judged, row)}."
    return [maker.make(min(spent_ms, judged.total.compute_ms), Place(operator=first.name), sentence, advice)]


def find_slow_kernels(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the largest operators if neither memory nor arithmetic bounds the step."""
    floor, ops = floor_of(judged), cpu_ops(judged)
    if floor is None or not ops or _is_near_floor(floor.row):
        return []
    row = floor.row
    slower = operators_percent(judged) / 100 * row.median_ms / row.floor_ms
    saves_ms = judged.total.compute_ms * (1 - 1 / slower) if slower > 1 else 0.0
    maker = FindingMaker(judged, "slow_kernels", "cpu")
    if not maker.is_shown(saves_ms):
        return []
    largest = ", ".join(f"{op.name} {op.percent:.0f} %" for op in ops[:_NAMED])
    sentence = (
        f"Neither memory (MBU {row.mbu_percent:.0f} %) nor arithmetic (MFU {row.mfu_percent:.0f} %) bounds a "
        f"{floor.phase} step: its operators take {slower:.1f} times the floor. Of operator time: {largest}."
    )
    how = "speed up" if _is_compiled(ops) else "run compiled kernels (--compile), then speed up"
    advice = f"The kernels leave {slower:.1f}x on the table: {how} {ops[0].name} first."
    return [maker.make(saves_ms, Place(operator=ops[0].name), sentence, advice)]


def _is_near_floor(row: PhaseRoofline) -> bool:
    """True if the hardware bounds the step: the larger of MBU and MFU, whose time the floor is, is high."""
    return max(row.mbu_percent, row.mfu_percent) >= NEAR_CEILING_PERCENT


def _is_compiled(ops: list[OpSummary]) -> bool:
    return sum(op.percent for op in ops if op.name.startswith(_COMPILED)) >= 50


def _helps(judged: JudgedTrace, row: PhaseRoofline) -> str:
    """Return what lowers the floor of a step that is near it."""
    ops = cpu_ops(judged)
    quantized = judged.is_quantized or any(is_any(op, QUANTIZED) for op in ops)
    choices: list[str] = []
    if row.bound == "memory":
        if not quantized:
            choices.append("store weights in fewer bits (--quantize int8 or int4)")
        elif judged.recording.quantize != "int4" and not any("int4" in op.name for op in ops):
            choices.append("store weights in fewer bits still (--quantize int4)")
        choices.append("use a larger batch (--max-batch-size), which shares each read of the weights")
    else:
        if not _is_compiled(ops):
            choices.append("run compiled kernels (--compile)")
        if (judged.recording.dtype or "") == "float32":
            choices.append("use a dtype that the CPU has instructions for (--dtype bfloat16)")
        choices.append("compute less, such as shorter prompts or a prefix cache that hits")
    return "; or ".join(choices)


def find_own_costs(judged: JudgedTrace, *, are_small: bool) -> list[Finding]:
    """Return the findings of a CPU run of this program, apart from those that any CPU run can have.

    If operators are small (`are_small`), calling them is the cost, and no kernel is to blame.
    """
    slow = [] if are_small else find_slow_kernels(judged)
    return [*find_idle_cores(judged), *find_products(judged), *slow]


def floor_evidence(judged: JudgedTrace) -> list[str]:
    """Return a line that puts the main step beside its floor, and a line about the cores if they are known."""
    floor = floor_of(judged)
    if floor is None:
        return []
    text = beside_floor(floor)
    source = _source(judged)
    lines = [f"{text[0].upper()}{text[1:]}, {source}; operators run {operators_percent(judged):.0f} % of the trace."]
    traced_ms = floor.row.traced_ms
    if traced_ms is not None and floor.row.median_ms > DISTURBED * traced_ms > 0:
        lines.append(
            f"The {floor.phase} step was faster under the profiler ({duration(traced_ms)}): other programs used "
            "the machine during the unprofiled pass, so that its times are too long."
        )
    return [*lines, *_cores(judged)]


def _source(judged: JudgedTrace) -> str:
    """Return the condition under which the step times of the roofline were measured."""
    is_baseline = judged.roofline is not None and judged.roofline.source == "baseline"
    return "without the profiler" if is_baseline else "under the profiler"


def _cores(judged: JudgedTrace) -> list[str]:
    """Return a line about threads and cores, also those that other programs used."""
    host = judged.host
    if host is None or host.threads <= 0:
        return []
    ranks = _ranks(judged)
    others = 0.0 if host.cores_idle is None else host.cores - ranks * host.cores_used - host.cores_idle
    is_shared = 100 * others >= IDLE_CORES_PERCENT * host.cores
    shared = f", other programs {others:.1f}: its times are too long" if is_shared else ""
    runs, uses = ("The run", "used") if ranks == 1 else (f"Each of {ranks} ranks", "the first used")
    return [
        f"{runs} computed with {counted(host.threads, 'thread')} on {counted(host.cores, 'core')}, and {uses} "
        f"{host.cores_used:.1f} cores on average{shared}."
    ]


def _ranks(judged: JudgedTrace) -> int:
    """Return the number of ranks on the CPU: each has as many threads, and a process of its own."""
    return max(1, len(judged.ranks))
