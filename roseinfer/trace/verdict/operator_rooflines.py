"""Rules: products that run without tensor cores, and operators that are far from the bound of their device."""

from roseinfer.trace.naming import counted, duration, short_name
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.summary.work_structs import OperatorWork
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import FAR_FROM_BOUND_PERCENT

_PRODUCTS = ("matmul", "convolution", "attention", "moe")
_ROWS = 3
_REACHABLE = 0.8
"""Share of a bound that good kernels reach."""


def find_unused_tensor_cores(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about products in float32 that run without tensor cores, if they take much of the time."""
    rows = [row for row in judged.operators if _lacks_tensor_cores(row)]
    spent_ms = sum(row.self_gpu_ms for row in rows)
    maker = FindingMaker(judged, "no_tensor_cores", "gpu")
    if not rows or not maker.is_shown(spent_ms):
        return []
    first = max(rows, key=lambda row: row.self_gpu_ms)
    kernel = first.kernels[0].name
    share = sum(row.percent for row in rows)
    where = f"{first.name}{f' of {first.shapes}' if first.shapes else ''}"
    sentence = (
        f"Products take {duration(spent_ms)}, {share:.0f} % of {judged.device} time, without tensor cores. "
        f"The largest is {where}: {duration(first.self_gpu_ms)} in {counted(first.calls, 'call')} by "
        f"{short_name(kernel, 60)}."
    )
    place = Place(operator=first.name, kernel=kernel)
    return [maker.make(_saves_ms(rows, spent_ms), place, sentence, _advice(judged, rows, spent_ms))]


def _lacks_tensor_cores(row: OperatorWork) -> bool:
    is_wide = row.dtypes is None or row.dtypes.startswith("float32")
    return row.tensor_cores is False and row.category in _PRODUCTS and is_wide and bool(row.kernels)


def _saves_ms(rows: list[OperatorWork], spent_ms: float) -> float:
    """Return the time that products at 80 % of their bounds would save, all of their time if the bounds are unknown."""
    saved = [row.roofline.saves_ms for row in rows if row.roofline and row.roofline.saves_ms is not None]
    return min(spent_ms, sum(saved)) if len(saved) == len(rows) else spent_ms


def _advice(judged: JudgedTrace, rows: list[OperatorWork], spent_ms: float) -> str:
    known = [row for row in rows if row.roofline and row.roofline.bound_ms is not None]
    peaks, how = judged.peaks, 'torch.set_float32_matmul_precision("high") for TF32, or torch.autocast for bfloat16'
    if peaks is None:
        return f"Use tensor cores, as far as the device has them: {how} or float16."
    if not peaks.has_tf32:
        half = "bfloat16 or float16" if peaks.has_bf16 else "float16"
        return f"Compute products in {half}, for example under torch.autocast: tensor cores do not run on float32 here."
    if len(known) < len(rows):
        return f"Use tensor cores: {how}."
    tf32_ms = sum(row.roofline.bound_ms or 0.0 for row in known if row.roofline) / _REACHABLE
    return (
        f"Use tensor cores: {how}. At 80 % of the {peaks.device}'s peak, TF32 takes {duration(tf32_ms)} in place of "
        f"{duration(spent_ms)}, and bfloat16 half of that."
    )


def find_far_from_bound(judged: JudgedTrace) -> list[Finding]:
    """Return findings about the operators that would save most time at 80 % of their bound."""
    maker = FindingMaker(judged, "far_from_bound", "gpu")
    rows = [
        row
        for row in judged.operators
        if row.roofline and (row.roofline.percent or 100.0) < FAR_FROM_BOUND_PERCENT and not _lacks_tensor_cores(row)
    ]
    ranked = sorted(rows, key=lambda row: -_saved(row))
    return [_far(judged, maker, row) for row in ranked[:_ROWS] if maker.is_shown(_saved(row))]


def _saved(row: OperatorWork) -> float:
    return row.roofline.saves_ms or 0.0 if row.roofline else 0.0


def _far(judged: JudgedTrace, maker: FindingMaker, row: OperatorWork) -> Finding:
    assert row.roofline is not None
    assert judged.peaks is not None
    bound = "memory bandwidth" if row.roofline.bound == "memory" else "peak FLOP rate"
    inputs = f" of {row.dtypes} {row.shapes}"
    sentence = (
        f"{row.name}{inputs} takes {duration(row.gpu_ms)} in {counted(row.calls, 'call')}, at "
        f"{row.roofline.percent:.0f} % of what the {bound} of the {judged.peaks.device} allows."
    )
    if row.category == "attention":
        how = "a newer attention kernel, or head sizes and lengths that the kernel is made for"
    elif row.roofline.bound == "memory":
        how = "fuse it with the operators around it (torch.compile), so that its data is read and written less often"
    else:
        how = "other sizes, a multiple of 64 in each dimension, or a larger batch"
    advice = f"Speed up {row.name}: {how}. At 80 % of the bound it saves {duration(_saved(row))}."
    return maker.make(_saved(row), Place(operator=row.name), sentence, advice)
