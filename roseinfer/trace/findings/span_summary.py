"""Time, GPU work and caused idle time of the spans, one row per name."""

import numpy as np

from roseinfer.trace.facts.graph_replays import MappedSpans
from roseinfer.trace.facts.span_costs import SpanCosts
from roseinfer.trace.facts.span_table import SpanTable
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.finding_structs import NO_SPAN, SpanSummary
from roseinfer.trace.summary.units import to_ms, to_percent


def summarize_spans(spans: SpanTable, costs: SpanCosts, mapped: MappedSpans) -> list[SpanSummary]:
    """Return one row per span name, the longest wall time first, `(no span)` last.

    `wall_ms` counts a span inside another span of its name once. `self_wall_ms` leaves out all inner spans. GPU events
    of a graph replay count for the span that they were captured under, if the manifest has it.
    """
    names = [*spans.groups, *mapped.new_groups, NO_SPAN]
    outermost = spans.across_threads.outermost(spans.group)
    group = np.append(spans.group, len(names) - 1)

    def by_group(values: Ints) -> Ints:
        return np.bincount(group, weights=values, minlength=len(names)).astype(np.int64)

    def inclusive(values: Ints) -> Ints:
        return by_group(np.append(spans.across_threads.add_to_ancestors(values[:-1]) * outermost, values[-1]))

    wall = np.append((spans.end_ns - spans.start_ns) * outermost, 0)
    columns = {
        "wall": by_group(wall),
        "self_wall": by_group(np.append(spans.forest.self_ns, 0)),
        "gpu": inclusive(costs.gpu_ns) + mapped.change_of_inclusive(mapped.gpu_ns, len(names)),
        "self_gpu": by_group(costs.gpu_ns) + mapped.change_of_self(mapped.gpu_ns, len(names)),
        "events": inclusive(costs.gpu_events) + mapped.change_of_inclusive(mapped.events, len(names)),
        "self_events": by_group(costs.gpu_events) + mapped.change_of_self(mapped.events, len(names)),
        "kernels": inclusive(costs.kernels) + mapped.change_of_inclusive(mapped.kernels, len(names)),
        "small": inclusive(costs.small) + mapped.change_of_inclusive(mapped.small, len(names)),
        "idle": by_group(costs.idle_ns),
        "op": by_group(costs.op_ns),
        "custom_op": by_group(costs.custom_op_ns),
        "calls": np.bincount(spans.group, minlength=len(names)) + mapped.calls(len(names)),
    }
    parents = mapped.parents | _usual_parents(spans)
    order = np.argsort(-columns["wall"][:-1], kind="stable").tolist()
    rows = [_row(names[index], parents.get(index), columns, index) for index in order]
    if not rows and not costs.gpu_events[-1]:
        return []
    return [*rows, _row(NO_SPAN, None, columns, len(names) - 1)]


def _row(name: str, parent: str | None, columns: dict[str, Ints], index: int) -> SpanSummary:
    def column(key: str) -> int:
        return int(columns[key][index])

    calls = column("calls")
    return SpanSummary(
        name=name,
        calls=calls,
        wall_ms=to_ms(column("wall")),
        self_wall_ms=to_ms(column("self_wall")),
        gpu_ms=to_ms(column("gpu")),
        self_gpu_ms=to_ms(column("self_gpu")),
        gpu_events=column("events"),
        self_gpu_events=column("self_events"),
        gpu_events_per_call=round(column("events") / calls, 3) if calls else 0.0,
        self_gpu_events_per_call=round(column("self_events") / calls, 3) if calls else 0.0,
        kernels=column("kernels"),
        small_percent=to_percent(column("small"), column("events")),
        idle_caused_ms=to_ms(column("idle")),
        self_op_ms=to_ms(column("op")),
        self_custom_op_ms=to_ms(column("custom_op")),
        parent=parent,
    )


def _usual_parents(spans: SpanTable) -> dict[int, str]:
    """Return the group that most often directly encloses each group; groups mostly at the top level are left out."""
    usual: dict[int, str] = {}
    parent = spans.across_threads.parent
    parent_group = np.append(spans.group, -1)[parent]
    for group in range(len(spans.groups)):
        found, count = np.unique(parent_group[spans.group == group], return_counts=True)
        if len(found) and (best := int(found[np.argmax(count)])) not in (-1, group):
            usual[group] = spans.groups[best]
    return usual
