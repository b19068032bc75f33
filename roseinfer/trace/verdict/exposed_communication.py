"""Rule: collectives run while the device computes nothing."""

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.naming import counted, duration, short_name
from roseinfer.trace.summary.budget_structs import ExposedWork
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, Place
from roseinfer.trace.summary.rank_structs import JobSummary
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import MANY_COLLECTIVES, SMALL_COLLECTIVE_US, SMALL_CPU_COLLECTIVE_US

_EACH_LAYER = (
    " Where each layer needs its own, fuse it with the kernels around it, or split the model over fewer ranks."
)


def find_exposed_communication(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about all exposed collectives, named by the largest."""
    maker = FindingMaker(judged, "exposed_collective", "communication")
    rows = [row for row in judged.exposed if row.kind == "communication"] if judged.gpu else _on_cpu(judged)
    exposed_ms = judged.transfer_ms
    if not rows or not maker.is_shown(exposed_ms):
        return []
    if judged.job is not None and judged.collectives:
        return [_of_job(judged, maker, judged.job, exposed_ms)]
    first = _joined([row for row in rows if row.name == rows[0].name])
    # On a CPU, an operator may hold a span of the same collective.
    total_ms = sum(row.total_ms for row in rows) if judged.gpu else max(first.total_ms, exposed_ms)
    share = 100 * exposed_ms / judged.total.wall_ms
    alone = f"The {judged.device} computes nothing" if judged.gpu else "Nothing is computed"
    where = Place(
        span=None if first.span == NO_SPAN else first.span,
        operator=first.operator,
        kernel=first.name if judged.gpu else None,
    )
    name = short_name(first.name.removeprefix("void "), 60)
    return [
        maker.make(
            exposed_ms,
            where,
            f"Collectives take {per_step(judged, total_ms)}. {alone} during {duration(exposed_ms)} of that, "
            f"{share:.0f} % of the time. {name} is the largest: {duration(first.total_ms)} in "
            f"{counted(first.count, 'run')}.",
            _advice(judged, first.name, 1000 * first.total_ms / first.count, first.count),
        )
    ]


def _of_job(judged: JudgedTrace, maker: FindingMaker, job: JobSummary, exposed_ms: float) -> Finding:
    """Return the finding of a job of several ranks, which tells transfer from waits."""
    first = max(judged.collectives, key=lambda row: row.transfer_ms)
    name = short_name(first.name.removeprefix("void "), 60)
    share = 100 * exposed_ms / judged.total.wall_ms
    bus = "" if first.bus_gb_per_s is None else f", at {first.bus_gb_per_s:,.1f} GB/s"
    sentence = (
        f"On {job.num_ranks} ranks, collectives transfer for {per_step(judged, job.transfer_ms)}, and "
        f"{duration(exposed_ms)} of communication, {share:.1f} % of the time, are neither hidden nor waits. {name} is "
        f"the largest: {first.count:,} of {first.median_transfer_us:,.1f} us (median) on each rank{bus}."
    )
    where = Place(operator=None if judged.gpu else first.name, kernel=first.name if judged.gpu else None)
    ranks = max(1, len(first.ranks))
    return maker.make(exposed_ms, where, sentence, _advice(judged, name, first.median_transfer_us, first.count * ranks))


def _on_cpu(judged: JudgedTrace) -> list[ExposedWork]:
    """Return the collectives of a CPU run, which are spans or operators, as if all their time were exposed."""
    found = [(span.name, span.calls, span.wall_ms, span.name) for span in judged.spans if is_collective(span.name)]
    found += [(op.name, op.calls, op.total_ms, NO_SPAN) for op in judged.top_ops if is_collective(op.name)]
    return [
        ExposedWork(
            kind="communication",
            name=name,
            operator=None if span != NO_SPAN else name,
            span=span,
            count=count,
            total_ms=total_ms,
            exposed_ms=total_ms,
            percent=0.0,
        )
        for name, count, total_ms, span in sorted(found, key=lambda row: -row[2])
    ]


def _joined(rows: list[ExposedWork]) -> ExposedWork:
    """Add up rows of one name at several places; the place of the first, which is the longest, remains."""
    first = rows[0]
    return ExposedWork(
        kind=first.kind,
        name=first.name,
        operator=first.operator,
        span=first.span,
        count=sum(row.count for row in rows),
        total_ms=sum(row.total_ms for row in rows),
        exposed_ms=sum(row.exposed_ms for row in rows),
        percent=sum(row.percent for row in rows),
    )


def _advice(judged: JudgedTrace, name: str, each_us: float, count: int) -> str:
    """Return advice about collectives of a name and a usual duration, of which all ranks together ran `count`."""
    runs = count / max(1, judged.steps.rank_steps)
    name = short_name(name.removeprefix("void "), 40)
    is_serving = not judged.steps.phases.keys().isdisjoint({"prefill", "decode", "mixed"})
    small_us = SMALL_COLLECTIVE_US if judged.gpu else SMALL_CPU_COLLECTIVE_US
    if each_us < small_us and runs >= MANY_COLLECTIVES:
        per = " per step" if judged.steps.rank_steps else ""
        return (
            f"Bucket the collectives: {name} runs {runs:,.0f} times{per}, {each_us:.1f} us each, so that latency is "
            f"their cost. Exchange more data in fewer calls.{_EACH_LAYER if is_serving else ''}"
        )
    if judged.is_training:
        how = "larger or earlier buckets, gradients in bfloat16, or accumulation over several batches"
    elif is_serving:
        how = "fuse it with the kernels around it, or split the model over fewer ranks"
    else:
        how = "a smaller dtype, fewer bytes, or other work at the same time"
    alone = "" if judged.job else " Time that a rank waits for a slower rank counts as communication too."
    return f"Overlap communication with computation, or reduce it ({name}): {how}.{alone}"
