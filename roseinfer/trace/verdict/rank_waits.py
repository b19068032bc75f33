"""Rule: ranks wait in collectives for a rank that begins later."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

import msgspec

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.summary.rank_structs import Straggler
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import MORE_WORK

_DOES = {
    "compute_ms": "computes {}",
    "exposed_copy_ms": "copies for {}",
    "queue_ms": "waits {} in its device's queue",
    "not_recorded_ms": "does for {} what is not recorded",
    "data_loading": "loads data for {}",
    "synchronizing_calls": "waits {} in synchronizing calls",
    "allocation": "allocates memory for {}",
    "launch_calls": "spends {} in launch calls",
    "operators": "spends {} in operators on its host",
    "python": "spends {} in Python",
    "host_ms": "waits {} for its host",
}
"""Phrase for each part of the budget that a rank spends time on; `{}` stands for the duration."""
_AHEAD_PERCENT = 50.0
"""Share of its steps that a host begins before the GPU has finished the step before, from which it runs ahead."""
_EXPLAINS = 1 / 3
"""Share of the waits from which the later hosts of some ranks are named as their cause."""
_LISTED = 4
"""Most ranks that are listed by number."""


class _LateHosts(NamedTuple):
    """Ranks whose hosts begin a step only after the GPU has finished the one before, where others run ahead."""

    ranks: list[int]
    host_ms: float
    """Time per step in which the GPUs of these ranks wait for the host."""
    others_ms: float
    """The same of the other ranks."""


def find_rank_waits(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the waits of ranks for each other, named by the rank that they wait for."""
    job = judged.job
    maker = FindingMaker(judged, "rank_waits", "waiting")
    if job is None or not maker.is_shown(judged.waits_ms):
        return []
    late = job.straggler
    if late is None:
        most = max(judged.ranks, key=lambda row: row.caused_percent or 0.0)
        sentence = (
            f"Ranks wait {per_step(judged, judged.waits_ms)} in collectives for the last rank. No rank causes most of "
            f"that; rank {most.rank} causes the largest share, {most.caused_percent or 0.0:.0f} %."
        )
        hosts = _late_hosts(judged)
        if hosts is not None:
            sentence += (
                f" On {_named(hosts.ranks)} the GPU waits {duration(hosts.host_ms)} per step for its host, on the "
                f"other ranks {duration(hosts.others_ms)}."
            )
            return [maker.make(judged.waits_ms, Place(), sentence, _begin_earlier(hosts.ranks))]
        advice = (
            "Even out the ranks: batches of equal size, and nothing that holds up one rank at a time, such as garbage "
            "collection, logging or checkpoints."
        )
        return [maker.make(judged.waits_ms, Place(), sentence, advice)]
    sentence = f"{waits_for(judged, late)}. Rank {late.rank} caused {late.caused_percent:.0f} % of all waits."
    if late.collection is not None:
        own, others = late.collection.ms, late.collection.others_ms
        per = " per step" if job.steps else ""
        sentence += f" It collects garbage for {duration(own)}{per}, the others for {duration(others)}."
    span = late.place if late.does and late.does[0].part == "host_ms" else None
    where = Place(
        rank=late.rank,
        span=span,
        kernel=late.kernel if judged.gpu else None,
        operator=None if span else _operator(judged, late),
    )
    return [maker.make(judged.waits_ms, where, sentence, _advice(judged, late))]


def rank_headline(judged: JudgedTrace) -> str:
    """Return the headline of a job whose ranks wait for each other."""
    late = judged.job.straggler if judged.job else None
    if late is not None:
        return f"Straggler: {waits_for(judged, late)}."
    share = 100 * judged.waits_ms / judged.total.wall_ms
    return f"Imbalanced: {share:.1f} % of the time are waits of ranks for each other; no rank causes most of them."


def waits_for(judged: JudgedTrace, late: Straggler) -> str:
    """Return `4.0 ms of 10.4 ms per step are waits for rank 2, which computes 9.0 ms where the others take 5.0 ms`."""
    per = " per step" if judged.job and judged.job.steps else ""
    text = f"{duration(late.wait_ms)} of {duration(late.step_ms)}{per} are waits for rank {late.rank}"
    if not late.does:
        return f"{text}, although no part of its time is longer than on the other ranks"
    first = late.does[0]
    does = _DOES[first.part].format(duration(first.ms))
    return f"{text}, which {does} where the others take {duration(first.others_ms)}"


def _operator(judged: JudgedTrace, late: Straggler) -> str | None:
    return late.place if late.place else None if judged.gpu else late.kernel


def _advice(judged: JudgedTrace, late: Straggler) -> str:
    rank, part = late.rank, late.does[0].part if late.does else ""
    kernel = short_name((late.kernel or "its kernels").removeprefix("void "), 60)
    gained_ms = late.does[0].ms - late.does[0].others_ms if late.does else late.wait_ms
    if late.collection is not None and 2 * (late.collection.ms - late.collection.others_ms) >= gained_ms:
        return (
            f"Collect garbage on all ranks at the same time: gc.freeze() after setup, gc.disable(), and gc.collect() "
            f"every so many steps; now rank {rank} stops alone for {duration(late.collection.ms)}."
        )
    if late.tokens is not None and late.tokens >= MORE_WORK:
        return f"Balance the work: steps of rank {rank} have {late.tokens:.1f} times the tokens of the other ranks."
    if part == "compute_ms" and late.kernel is not None:
        if late.kernel_calls is None:
            return f"Remove {kernel} from rank {rank}, or share it: the other ranks do not run it."
        if late.kernel_calls >= MORE_WORK:
            return f"Balance the work: rank {rank} runs {kernel} {late.kernel_calls:.1f} times as often as the others."
        device = "processor" if judged.gpu is None else judged.device
        return (
            f"Compare rank {rank} with the others: {kernel} takes longer there in as many calls. Either its batch is "
            f"larger, or its {device} is slower: check clocks, power, temperature, and other programs."
        )
    where = f", longest in {late.place}" if late.place else ""
    if part == "data_loading":
        return f"Speed up data loading on rank {rank}{where}: use more workers, or prepare its data ahead."
    hosts = _late_hosts(judged)
    if part and hosts is not None and rank in hosts.ranks:
        return _begin_earlier([rank], late.place)
    if part:
        return f"Speed up the host of rank {rank}{where}: the other ranks wait for it."
    return f"Record more steps: nothing in the trace of rank {rank} says why it begins its collectives late."


def _late_hosts(judged: JudgedTrace) -> _LateHosts | None:
    """Return the ranks that others wait for because their hosts do not run ahead; None if that explains little."""
    known = [row for row in judged.ranks if row.ahead_percent is not None]
    late = [row.rank for row in known if (row.ahead_percent or 0.0) < _AHEAD_PERCENT]
    steps = judged.budget.steps if judged.budget else []
    if not steps or not 0 < len(late) < len(known):
        return None
    host: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        host[step.rank].append(sum(msgspec.structs.astuple(step.host_ms)))
    mean = {rank: fmean(some) for rank, some in host.items()}
    slow = median(mean[rank] for rank in late)
    fast = median(mean[row.rank] for row in known if row.rank not in late)
    waits_ms = judged.waits_ms / max(1, judged.steps.rank_steps)
    return _LateHosts(late, slow, fast) if slow - fast > _EXPLAINS * waits_ms else None


def _begin_earlier(ranks: Sequence[int], place: str | None = None) -> str:
    longest = f", longest for {place}" if place else ""
    return (
        f"Begin steps earlier on {_named(ranks)}: the host there begins a step only after the GPU has ended the step "
        f"before, so that the GPU waits{longest}. The hosts of the other ranks run ahead."
    )


def _named(ranks: Sequence[int]) -> str:
    """Return `rank 1`, `ranks 1, 2 and 3`, or `7 ranks`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > _LISTED:
        return f"{len(ranks)} ranks"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
