"""Sheets of the work of the devices: by operator, shape, kernel, category, module or stack."""

from collections.abc import Callable, Sequence

from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, rest, sheet
from roseinfer.cli.rendering.work_groups import GROUPS, GroupBy
from roseinfer.errors import TraceError
from roseinfer.trace.summary.trace_summary import Summary
from roseinfer.trace.summary.work_structs import OperatorWork, StackWork

_INPUTS_WIDTH = 30
_SHORT_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
_CORES = {True: "yes", False: "no", None: ""}


def work_sheet(summary: Summary, group_by: GroupBy, top: int) -> Sheet:
    """Return the work in the `top` groups of a kind, and one row for the others.

    Raises TraceError if the recording lacks what the groups need: shapes, GPU events or Python stacks.
    """
    missing = _missing(summary, group_by)
    if missing is not None:
        raise TraceError(f"--group-by {group_by}: {missing}")
    return _SHEETS[group_by](summary, top)


def work_sheets(summary: Summary, top: int) -> list[Sheet]:
    """Return the sheets of all kinds of groups that the recording has."""
    return [work_sheet(summary, one, top) for one in GROUPS if _missing(summary, one) is None]


def _missing(summary: Summary, group_by: GroupBy) -> str | None:
    """Return what the recording lacks for a kind of groups, and how to record it; None if it lacks nothing."""
    if group_by == "shape" and all(row.shapes is None for row in summary.operators):
        return "the trace has no shapes; record with record_shapes=True"
    if group_by in ("kernel", "category") and not summary.kernels:
        return "the trace has no GPU events"
    if group_by == "module" and not summary.modules:
        return "the trace has no calls of modules; record with with_stack=True"
    if group_by == "stack" and not summary.stacks:
        return "the trace has no Python stacks; record with with_stack=True"
    return None if summary.operators or group_by != "op" else "the trace has no operators"


def _operators(summary: Summary, top: int) -> Sheet:
    by_name: dict[str, list[OperatorWork]] = {}
    for row in summary.operators:
        by_name.setdefault(row.name, []).append(row)
    ranked = sorted(by_name.items(), key=lambda item: -sum(row.percent for row in item[1]))
    rows = [[name, *_operator_cells(summary, some)] for name, some in ranked[:top]]
    left = [row for _, some in ranked[top:] for row in some]
    return _sheet(summary, "Operators", ("*Operator",), rows, len(ranked) - top, left)


def _shapes(summary: Summary, top: int) -> Sheet:
    if any(row.roofline and row.roofline.percent is not None for row in summary.operators):
        return _rooflines(summary, top)
    rows = [[row.name, _typed_shapes(row), *_operator_cells(summary, [row])] for row in summary.operators[:top]]
    left = summary.operators[top:]
    return _sheet(summary, "Operators by shape", ("*Operator", "-Inputs"), rows, len(left), left)


def _rooflines(summary: Summary, top: int) -> Sheet:
    """Return the operators by shape, with their shares of what the device's peaks allow."""
    rows = [
        [
            row.name,
            _typed_shapes(row),
            f"{row.calls:,}",
            milliseconds(row.self_gpu_ms),
            *_roofline_cells(row),
        ]
        for row in summary.operators[:top]
    ]
    if left := summary.operators[top:]:
        calls, ms = f"{sum(row.calls for row in left):,}", milliseconds(sum(row.self_gpu_ms for row in left))
        rows.append([rest(len(left)), "", calls, ms, "", "", ""])
    device = summary.peaks.device if summary.peaks else ""
    columns = ("*Operator", "-Inputs", "Calls", "Self ms", "-Bound", "Of it %", "Saves ms")
    return sheet(f"Operators by shape, by self GPU time, and the roofline of {device}", columns, rows)


def _roofline_cells(row: OperatorWork) -> list[str]:
    found = row.roofline
    if found is None or found.percent is None:
        return ["", "", ""]
    return [found.bound or "", f"{found.percent:.0f}", milliseconds(found.saves_ms or 0.0)]


def _sheet(
    summary: Summary,
    title: str,
    names: Sequence[str],
    rows: list[list[str]],
    count: int,
    left: list[OperatorWork],
) -> Sheet:
    if count > 0:
        blank = [""] * (len(names) - 1)
        rows = [*rows, [rest(count), *blank, *_operator_cells(summary, left)]]
    gpu = ("Calls", "Self GPU ms", "%", "GPU ms", "Host ms")
    columns = gpu if summary.gpu else ("Calls", "Self ms", "%", "Total ms")
    return sheet(f"{title}, by {'self GPU' if summary.gpu else 'self'} time", (*names, *columns), rows)


def _operator_cells(summary: Summary, rows: list[OperatorWork]) -> list[str]:
    calls, share = f"{sum(row.calls for row in rows):,}", f"{sum(row.percent for row in rows):.1f}"
    self_host, host = sum(row.self_host_ms for row in rows), sum(row.host_ms for row in rows)
    if summary.gpu is None:
        return [calls, milliseconds(self_host), share, milliseconds(host)]
    self_gpu, gpu = sum(row.self_gpu_ms for row in rows), sum(row.gpu_ms for row in rows)
    return [calls, milliseconds(self_gpu), share, milliseconds(gpu), milliseconds(self_host)]


def _typed_shapes(row: OperatorWork) -> str:
    """Return shapes after their types, such as `bf16 [16,4096] [4096,4096]`, at most 30 characters."""
    types = "/".join(_SHORT_TYPES.get(one, one) for one in dict.fromkeys((row.dtypes or "").split(", ")))
    text = f"{types} {(row.shapes or '').replace('], [', '] [').replace(', ', ',')}".strip()
    return text if len(text) <= _INPUTS_WIDTH else f"{text[: _INPUTS_WIDTH - 1]}…"


def _kernels(summary: Summary, top: int) -> Sheet:
    rows = [
        [
            row.name,
            row.category,
            f"{row.count:,}",
            milliseconds(row.ms),
            f"{row.percent:.1f}",
            f"{row.mean_us:,.1f}",
            _CORES[row.tensor_cores],
        ]
        for row in summary.kernels[:top]
    ]
    if left := summary.kernels[top:]:
        count, ms = f"{sum(row.count for row in left):,}", milliseconds(sum(row.ms for row in left))
        rows.append([rest(len(left)), "", count, ms, f"{sum(row.percent for row in left):.1f}", "", ""])
    columns = ("*Kernel", "-Category", "Count", "Ms", "%", "Mean us", "-Tensor cores")
    return sheet("GPU events by name", columns, rows)


def _categories(summary: Summary, top: int) -> Sheet:
    rows = [
        [
            row.category,
            f"{row.count:,}",
            milliseconds(row.ms),
            f"{row.percent:.1f}",
            milliseconds(row.tensor_cores_ms),
            milliseconds(row.no_tensor_cores_ms),
        ]
        for row in summary.categories
    ]
    columns = ("-Category", "Count", "Ms", "%", "On tensor cores", "Not on them")
    return sheet("GPU events by category", columns, rows)


def _modules(summary: Summary, top: int) -> Sheet:
    return _stack_sheet(summary, "Modules", summary.modules, top, lambda row: " < ".join(row.frames[:-3:-1]))


def _stacks(summary: Summary, top: int) -> Sheet:
    return _stack_sheet(
        summary,
        "Python stacks",
        summary.stacks,
        top,
        _innermost,
    )


def _innermost(row: StackWork) -> str:
    """Return the innermost function of a stack, and the module around it."""
    module = next((one for one in reversed(row.frames[:-1]) if "(" not in one), None)
    return " < ".join([*row.frames[-1:], *([module] if module else [])])


def _stack_sheet(
    summary: Summary, title: str, found: list[StackWork], top: int, name: Callable[[StackWork], str]
) -> Sheet:
    has_gpu = summary.gpu is not None
    rows = [
        [
            name(row) or "(outside)",
            f"{row.calls:,}",
            *([milliseconds(row.self_gpu_ms), milliseconds(row.gpu_ms)] if has_gpu else []),
            f"{row.percent:.1f}",
            milliseconds(row.self_host_ms),
        ]
        for row in found[:top]
    ]
    gpu = ("Self GPU ms", "GPU ms") if has_gpu else ()
    columns = ("*Where", "Calls", *gpu, "%", "Self host ms")
    return sheet(f"{title}, by {'self GPU' if has_gpu else 'self'} time", columns, rows)


_SHEETS: dict[GroupBy, Callable[[Summary, int], Sheet]] = {
    "op": _operators,
    "shape": _shapes,
    "kernel": _kernels,
    "category": _categories,
    "module": _modules,
    "stack": _stacks,
}
"""Function that makes the sheet of each kind of groups. To add a kind, add it to `GroupBy` and here."""
