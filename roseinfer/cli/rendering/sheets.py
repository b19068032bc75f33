"""A trace summary as sheets: titled tables of text, rendered alike by the terminal, Markdown and HTML."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median

from roseinfer.cli.rendering.budget_sheets import budget_sheets
from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.cli.rendering.idle_sheets import exposed_sheet, finding_sheet, idle_sheet
from roseinfer.cli.rendering.memory_sheets import held_sheet, memory_sheet
from roseinfer.cli.rendering.rank_sheets import collective_sheet, left_out, rank_sheet, shown_ranks
from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, rest, sheet
from roseinfer.cli.rendering.work_groups import GroupBy
from roseinfer.cli.rendering.work_sheets import work_sheet
from roseinfer.config import SortKey
from roseinfer.trace.summary.device_structs import DeviceSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, OpSummary, SpanSummary
from roseinfer.trace.summary.trace_summary import Summary

_MAX_KINDS = 12
"""Maximum kinds of steps of one phase that are listed."""
_UNEVEN = 1.5
"""Ratio of the tokens of a phase's steps from which its steps are listed by work."""
_UNEVEN_TIMES = 0.01
"""Difference of the mean step from the median one, relative to it, from which both are shown."""


def shown_devices(summary: Summary) -> list[DeviceSummary]:
    """Return the devices to show: all, or of many ranks those of some."""
    shown = set(shown_ranks(summary))
    return [device for device in summary.devices if device.rank in shown]


def device_sheet(summary: Summary) -> Sheet:
    """Return busy time and idle time by cause, one row per GPU."""
    rows = [
        [
            _device_name(device, summary),
            f"{device.busy_percent:.1f}",
            milliseconds(device.window_ms),
            milliseconds(device.idle_ms),
            milliseconds(device.idle_by_cause.host_late_ms),
            milliseconds(device.idle_by_cause.launch_call_ms),
            milliseconds(device.idle_by_cause.device_queue_ms),
            milliseconds(device.idle_by_cause.unlinked_ms),
        ]
        for device in shown_devices(summary)
    ]
    columns = ("*GPU", "Busy %", "Window", "Idle", "Late", "Call", "Queue", "Unlinked")
    return sheet(f"GPU windows, and idle time in them by cause, ms{left_out(summary)}", columns, rows)


def event_sheet(summary: Summary) -> Sheet:
    """Return counts and sizes of GPU events, and the share launched by graph replays, one row per GPU."""
    rows = [
        [
            _device_name(device, summary),
            f"{device.gpu_events:,}",
            f"{device.small_percent:.1f}",
            f"{device.kernels:,}",
            f"{device.small_kernels_percent:.1f}",
            f"{device.launches:,}",
            f"{device.replayed_percent:.1f}",
            f"{device.median_event_us:,.1f}",
        ]
        for device in shown_devices(summary)
    ]
    columns = ("*GPU", "Events", "<5us %", "Kernels", "<5us %", "Launches", "Graph %", "Median us")
    return sheet(f"GPU events, kernels and launches{left_out(summary)}", columns, rows)


def _device_name(device: DeviceSummary, summary: Summary) -> str:
    number = f"{device.rank}:{device.id}" if len(summary.trace.ranks) > 1 else str(device.id)
    return f"{number} {device.name}".strip()


def step_sheet(summary: Summary) -> Sheet:
    """Return step counts, durations and work per step, one row per phase.

    GPU times are means. The mean time of a step is shown beside them unless the median is about as long.
    """
    has_gpu = summary.gpu is not None
    means = {phase: fmean(step.ms for step in summary.steps.of_phase(phase)) for phase in summary.steps.phases}
    has_mean = has_gpu and any(
        abs(means[phase] - row.median_ms) > _UNEVEN_TIMES * row.median_ms for phase, row in summary.steps.phases.items()
    )
    rows = [
        [
            phase,
            f"{row.count:,}",
            milliseconds(row.median_ms),
            milliseconds(row.p90_ms),
            *([milliseconds(means[phase])] if has_mean else []),
            *(
                [milliseconds(row.gpu_ms_per_step), f"{row.gpu_events_per_step:,.0f}", f"{row.launches_per_step:,.0f}"]
                if has_gpu
                else []
            ),
            "?" if row.tokens_per_step is None else f"{row.tokens_per_step:,.1f}",
        ]
        for phase, row in summary.steps.phases.items()
    ]
    gpu = ("GPU ms", "Events", "Launches") if has_gpu else ()
    mean = ("Mean ms",) if has_mean else ()
    columns = ("-Phase", "Steps", "Median ms", "p90 ms", *mean, *gpu, "Tokens")
    how = _timed_on_device(summary, list(summary.steps.phases))
    return sheet(f"Steps by phase, from {summary.steps.source} spans{how}", columns, rows)


def _timed_on_device(summary: Summary, phases: list[str]) -> str:
    """Return the end of a title that says which of the phases are timed on the device; empty if none is."""
    timed = [phase for phase in phases if summary.steps.phases[phase].timed_by == "wall"]
    named = "" if len(timed) == len(phases) else f"{', '.join(timed)} "
    return f", {named}timed on the device" if timed else ""


def launch_sheet(summary: Summary) -> Sheet:
    """Return times by requests and tokens, for phases whose steps differ, such as decode launches of other lengths."""
    rows: list[list[str]] = []
    for phase in summary.steps.phases:
        alike: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
        for step in summary.steps.of_phase(phase):
            if step.batch is not None and step.tokens:
                alike[step.batch, step.tokens].append(step.ms)
        tokens = [tokens for _, tokens in alike]
        if not 1 < len(alike) <= _MAX_KINDS or max(tokens) < _UNEVEN * min(tokens):
            continue
        for (batch, count), times in sorted(alike.items(), reverse=True):
            ms = median(times)
            per_token = f"{1000 * ms / count:,.1f}"
            rows.append([phase, f"{batch:,}", f"{count:,}", f"{len(times):,}", milliseconds(ms), per_token])
    columns = ("-Phase", "Requests", "Tokens", "Steps", "Median ms", "us per token")
    how = _timed_on_device(summary, list(dict.fromkeys(row[0] for row in rows)))
    return sheet(f"Steps by requests and tokens{how}", columns, rows)


def span_sheet(summary: Summary) -> Sheet:
    """Return the time of each named range of the program, inner spans indented below their parent."""
    has_gpu = summary.gpu is not None
    rows = [
        [
            "  " * depth + span.name,
            f"{span.calls:,}",
            milliseconds(span.wall_ms),
            milliseconds(span.self_wall_ms),
            *(
                [
                    milliseconds(span.gpu_ms),
                    f"{span.gpu_events_per_call or span.gpu_events:,.0f}",
                    milliseconds(span.idle_caused_ms),
                ]
                if has_gpu
                else [milliseconds(span.self_op_ms)]
            ),
        ]
        for depth, span in span_tree(summary.spans)
        if span.name != NO_SPAN or span.gpu_events or span.self_op_ms
    ]
    columns = ("GPU ms", "Ev/call", "Idle ms") if has_gpu else ("In ops ms",)
    return sheet("Spans", ("*Span", "Calls", "Wall ms", "Self ms", *columns), rows)


def span_tree(spans: Sequence[SpanSummary]) -> list[tuple[int, SpanSummary]]:
    """Return (depth, span) pairs, every span once and below its most frequent parent, even if parents form a cycle."""
    inside: dict[str | None, list[SpanSummary]] = {}
    for span in spans:
        inside.setdefault(span.parent, []).append(span)
    found: list[tuple[int, SpanSummary]] = []
    seen: set[str] = set()

    def visit(span: SpanSummary, depth: int) -> None:
        if span.name not in seen:
            seen.add(span.name)
            found.append((depth, span))
            for inner in inside.get(span.name, []):
                visit(inner, depth + 1)

    for span in inside.get(None, []):
        visit(span, 0)
    for span in spans:  # spans whose parents form a cycle
        visit(span, 0)
    return found


def repetition_sheet(summary: Summary, top: int) -> Sheet:
    """Return repeated sequences that one launch could replace; empty if the GPU is the bottleneck."""
    what = "launches" if summary.gpu else "operators"
    remedies = {
        "batch": "one batched kernel" if summary.gpu else "one batched operator",
        "graph": "a CUDA graph",
        "compile": "torch.compile",
        "fuse": "larger operators",
    }
    rows = [
        [
            row.span,
            f"{row.pattern_launches:,}",
            f"{row.repeats:,}",
            f"{row.removable_per_step:,} of {row.launches_per_step:,}",
            remedies[row.remedy],
        ]
        for row in summary.repetition[: top if summary.verdict.kind != "gpu_bound" else 0]
    ]
    return sheet(f"Repeated {what} per step", ("*Span", "Sequence", "Repeats", "Removable", "-By"), rows)


def sync_sheet(summary: Summary, top: int) -> Sheet:
    """Return the calls in which the host waited for the GPU."""
    rows = [[sync.call, sync.op, sync.span, f"{sync.count:,}", milliseconds(sync.ms)] for sync in summary.syncs[:top]]
    return sheet("Calls that blocked the host", ("*Call", "*Operator", "*Span", "Count", "Ms"), rows)


def what_if_sheet(summary: Summary) -> Sheet:
    """Return possible changes, each with an upper bound of the time that it saves."""
    rows = [
        [bound.change, milliseconds(bound.saves_ms), f"{bound.saves_percent:.1f}", f"{bound.speedup:.2f}x"]
        for bound in summary.what_if
    ]
    return sheet("What if (upper bounds: a real change gains less)", ("*Change", "Saves ms", "%", "Speed-up"), rows)


def roofline_sheet(summary: Summary) -> Sheet:
    """Compare the step time of each phase with the floor that the device's measured ceilings allow."""
    phases = summary.roofline.phases if summary.roofline else {}
    rows = [
        [
            phase,
            milliseconds(row.median_ms),
            milliseconds(row.floor_ms),
            row.bound,
            f"{row.mbu_percent:.1f}",
            f"{row.mfu_percent:.1f}",
        ]
        for phase, row in phases.items()
    ]
    is_baseline = summary.roofline is not None and summary.roofline.source == "baseline"
    source = "unprofiled pass" if is_baseline else "trace"
    columns = ("-Phase", "Step ms", "Floor ms", "-Bound by", "MBU %", "MFU %")
    title = f"Roofline, step times from the {source}"
    if summary.roofline:
        bandwidth, rate = summary.roofline.copy_bytes_per_s, summary.roofline.flops_per_s
        title += f"; {_rate(bandwidth, 'B/s')}, {_rate(rate, 'FLOP/s')} measured"
    return sheet(title, columns, rows)


def _rate(per_second: float, unit: str) -> str:
    """Return a rate such as `2.95 TB/s`."""
    scale, prefix = (1e12, "T") if per_second >= 1e12 else (1e9, "G")
    return f"{per_second / scale:,.3g} {prefix}{unit}"


def op_sheet(summary: Summary, top: int, sort_by: SortKey) -> Sheet:
    """Return the `top` GPU kernels and the `top` CPU operators, with one row each for the remaining ones."""
    rows: list[list[str]] = []
    for device in ("gpu", "cpu"):
        ops = sorted((op for op in summary.top_ops if op.device == device), key=lambda op: -_key(op, sort_by))
        rows += [
            [
                op.name,
                op.device.upper(),
                f"{op.calls:,}",
                milliseconds(op.self_ms),
                f"{op.percent:.1f}",
                milliseconds(op.total_ms),
                f"{1000 * op.total_ms / op.calls:,.1f}",
            ]
            for op in ops[:top]
        ]
        if left := ops[top:]:
            calls, self_ms = sum(op.calls for op in left), sum(op.self_ms for op in left)
            share = sum(op.percent for op in left)
            rows.append([rest(len(left)), device.upper(), f"{calls:,}", milliseconds(self_ms), f"{share:.1f}", "", ""])
    what = "operators and kernels" if summary.gpu else "operators"
    title = f"Top {what} by {'calls' if sort_by == 'calls' else sort_by + ' time'}"
    return sheet(title, ("*Name", "-On", "Calls", "Self ms", "Self %", "Total ms", "Mean us"), rows)


def _key(op: OpSummary, sort_by: SortKey) -> float:
    return {"self": op.self_ms, "total": op.total_ms, "calls": float(op.calls)}[sort_by]


def all_sheets(summary: Summary, top: int, sort_by: SortKey, group_by: GroupBy | None = None) -> list[Sheet]:
    """Return every sheet that has rows, in reading order. `group_by` replaces the operators by another table."""
    few = min(top, 8)
    sheets = [
        *budget_sheets(summary.budget, summary.devices, set(shown_ranks(summary))),
        *(comparison_sheets(summary.comparison, few) if summary.comparison else []),
        finding_sheet(summary.findings),
        device_sheet(summary),
        event_sheet(summary),
        rank_sheet(summary),
        collective_sheet(summary, few),
        step_sheet(summary),
        launch_sheet(summary),
        roofline_sheet(summary),
        span_sheet(summary),
        idle_sheet(summary.budget, few),
        exposed_sheet(summary.budget, few),
        repetition_sheet(summary, few),
        sync_sheet(summary, few),
        what_if_sheet(summary),
        memory_sheet(summary),
        held_sheet(summary),
        op_sheet(summary, top, sort_by) if group_by is None else work_sheet(summary, group_by, top),
    ]
    return [sheet for sheet in sheets if sheet.rows]
