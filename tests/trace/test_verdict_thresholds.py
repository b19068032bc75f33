"""Verdicts change exactly at their thresholds."""

from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.budget_structs import HostTime, TimeBudget
from roseinfer.trace.verdict.verdict_kind import kind_of, shares_of


def budget(*, data: float = 0, python: float = 0, communication: float = 0, copy: float = 0, queue: float = 0) -> Any:
    """Return a budget of 1,000 ms; what is not given is computation."""
    host = HostTime(
        data_loading=data, synchronizing_calls=0, allocation=0, launch_calls=python / 2, operators=0, python=python / 2
    )
    return TimeBudget(
        wall_ms=1000,
        compute_ms=1000 - data - python - communication - copy - queue,
        exposed_communication_ms=communication,
        exposed_copy_ms=copy,
        host_ms=host,
        queue_ms=queue,
        not_recorded_ms=0,
    )


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({}, "gpu_bound"),
        ({"python": 99.9}, "gpu_bound"),
        ({"python": 100}, "balanced"),
        ({"python": 199.9}, "balanced"),
        ({"python": 200}, "host_bound"),
        ({"data": 200}, "data_bound"),
        ({"communication": 200}, "communication_bound"),
        ({"copy": 200}, "copy_bound"),
        ({"queue": 900}, "balanced"),
        ({"python": 40, "copy": 40, "communication": 19.9}, "gpu_bound"),
        ({"python": 40, "copy": 40, "communication": 20}, "balanced"),
        ({"python": 100, "copy": 99, "communication": 100.9}, "balanced"),
        ({"python": 100, "copy": 99, "communication": 101}, "communication_bound"),
        ({"python": 149, "data": 151}, "data_bound"),
        ({"python": 151, "data": 149}, "host_bound"),
    ],
)
def test_the_largest_share_that_is_large_enough_gives_the_kind(parts: dict[str, float], kind: str) -> None:
    assert kind_of(shares_of(budget(**parts))) == kind


def test_shares_are_sorted_and_add_up() -> None:
    shares = shares_of(budget(python=100, data=300, queue=50))
    assert list(shares.reducible)[:3] == ["data", "host", "queue"]
    assert shares.largest == "data"
    assert shares.compute + sum(shares.reducible.values()) == pytest.approx(100)


def summary_of(tmp_path: Path, events: list[dict[str, Any]]) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events, "dense"))


@pytest.mark.parametrize(("events", "is_told"), [(49, False), (50, True)])
def test_a_graph_is_advised_from_fifty_events_per_step(tmp_path: Path, events: int, is_told: bool) -> None:
    made = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 10 * events)]
    for index in range(events):
        made += [launch(10 * index, 6, index + 1), kernel(10 * index + 7, 2, index + 1)]
    advice = summary_of(tmp_path, made).verdict.advice
    assert any("CUDA graph" in line for line in advice) == is_told


@pytest.mark.parametrize(("wait_us", "rule"), [(190, "launch_overhead"), (210, "host_work")])
def test_long_waits_at_one_place_are_named_by_themselves(tmp_path: Path, wait_us: int, rule: str) -> None:
    made: list[dict[str, Any]] = []
    for index in range(60):
        begin = 500 * index
        made.append(event("cpu_op", "aten::pad", begin, wait_us))
        made += [launch(begin + wait_us, 5, index + 1), kernel(begin + wait_us + 5, 495 - wait_us, index + 1)]
    assert summary_of(tmp_path, made).findings[0].id == rule


@pytest.mark.parametrize(("mean_us", "per_step", "is_told"), [(49, 10, True), (51, 10, False), (49, 9, False)])
def test_collectives_are_bucketed_if_they_are_many_and_short(
    tmp_path: Path, mean_us: int, per_step: int, is_told: bool
) -> None:
    made: list[dict[str, Any]] = []
    for index in range(per_step):
        begin = 100 * index
        made += [launch(begin, 1, index + 1), kernel(begin + 2, mean_us, index + 1, "ncclDevKernel_AllReduce")]
    made.append(event("user_annotation", "ProfilerStep#1", 0, 100 * per_step))
    advice = summary_of(tmp_path, made).verdict.advice
    assert any("Bucket the collectives" in line for line in advice) == is_told


@pytest.mark.parametrize(("ops_us", "is_told"), [(590, True), (610, False)])
def test_time_outside_operators_is_a_finding_below_sixty_percent_in_operators(
    tmp_path: Path, ops_us: int, is_told: bool
) -> None:
    made = [event("user_annotation", "loop", 0, 1000), event("cpu_op", "aten::mm", 0, ops_us)]
    found = summary_of(tmp_path, made).findings
    assert any(finding.id == "outside_operators" for finding in found) == is_told


@pytest.mark.parametrize(("op_us", "tells"), [(5, True), (9, False)])
def test_the_self_time_of_a_span_is_evidence_unless_a_finding_tells_it(tmp_path: Path, op_us: int, tells: bool) -> None:
    made = [event("cpu_op", "aten::mul", 10 * index, op_us) for index in range(600)]
    summary = summary_of(tmp_path, [event("user_annotation", "loop", 0, 6000), *made])
    found = {finding.id for finding in summary.findings}
    assert ("outside_operators" in found, "small_operators" in found) == (tells, True)
    assert any(line.startswith("loop has a self time of") for line in summary.verdict.evidence) != tells


@pytest.mark.parametrize(("op_us", "is_told"), [(199, False), (201, True)])
def test_an_operator_of_twenty_percent_is_a_finding(tmp_path: Path, op_us: int, is_told: bool) -> None:
    made = [event("cpu_op", "aten::softmax", 0, op_us)]
    made += [event("cpu_op", f"aten::other{index}", op_us + 10 * index, 10) for index in range((1000 - op_us) // 10)]
    made.append(event("user_annotation", "loop", 0, 1000))
    found = summary_of(tmp_path, made).findings
    assert any(finding.id == "largest_operator" for finding in found) == is_told
