"""A change by hand is judged by the comparison of two runs."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.advice.followed_advice import followed_advice
from roseinfer.errors import UsageError
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.comparison_structs import PhaseChange, TraceComparison
from roseinfer.trace.summary.finding_structs import Finding, Place, WhatIf
from roseinfer.trace.summary.step_structs import PhaseSummary, StepsSummary

EMPTY = summarize_trace(Path(__file__).parents[1] / "trace" / "data" / "verdicts" / "empty.json")


def summary(**fields: object) -> Summary:
    """Return a summary of the fields that predictions read."""
    trace = {"path": "new", "events": 1, "size_bytes": 1, "ranks": []}
    recording = {"device": "CPU", "model": "tiny", "dtype": None, "quantize": None}
    flags = {"with_stack": False, "profile_memory": False, "record_shapes": False}
    summary = msgspec.structs.replace(EMPTY, **fields)
    return msgspec.structs.replace(
        summary,
        trace=msgspec.convert(trace, type(EMPTY.trace)),
        recording=msgspec.convert({**recording, **flags}, type(EMPTY.recording)),
    )


def finding(key: str, share: float) -> Finding:
    rule = key.partition("|")[0]
    place = Place(span="roseinfer.step")
    return Finding(
        id=rule, key=key, kind="host", share_percent=share, saves_ms=1.0, where=place, sentence="", advice=""
    )


def phase(name: str, before: float, after: float, noise: float | None = 1.0) -> PhaseChange:
    change = 100 * (after / before - 1)
    return PhaseChange(name, before, after, change, noise, None, None, "faster")


def compared(*phases: PhaseChange) -> Summary:
    comparison = TraceComparison(
        baseline="old",
        warnings=[],
        phases=list(phases),
        spans=[],
        kernels=[],
        kernels_on="cpu",
        launches=[],
        headline="",
        fail_above_percent=None,
        failed=False,
    )
    return summary(comparison=comparison)


def older(**counts: int) -> Summary:
    rows = {
        name: PhaseSummary(count, 1.0, 1.0, 0.0, 0, 0, 0, 0, 0, None, None, count, "span")
        for name, count in counts.items()
    }
    return summary(
        steps=StepsSummary("roseinfer.step", sum(counts.values()), sum(counts.values()), rows, []),
        findings=[finding("host_work|a", 40.0), finding("host_work|b", 20.0)],
        what_if=[WhatIf("removing all idle time", 3.0, 30.0, 1.4, id="no_idle_time")],
    )


@pytest.mark.parametrize(
    ("named", "key", "bound"),
    [("host_work|b", "host_work|b", 20.0), ("host_work", "host_work|a", 40.0), ("no_idle_time", "no_idle_time", 30.0)],
)
def test_a_finding_is_named_by_key_or_by_rule_and_a_bound_by_its_id(named: str, key: str, bound: float) -> None:
    kept = followed_advice(named, older(decode=3), compared(phase("decode", 10, 9)), "baseline")
    assert (kept.finding, kept.bound_percent) == (key, bound)
    assert (kept.saves_percent, kept.noise_percent, kept.outcome) == (10.0, 1.0, "helped")
    assert not kept.above_bound


def test_phases_weigh_as_much_as_their_time() -> None:
    both = compared(phase("prefill", 100, 50, 2.0), phase("decode", 10, 10, 4.0))
    kept = followed_advice("host_work|a", older(prefill=1, decode=30), both, "rerun")
    assert kept.saves_percent == pytest.approx(50 * 100 / 400)
    assert kept.noise_percent == pytest.approx(((100 * 2) ** 2 + (300 * 4) ** 2) ** 0.5 / 400, abs=0.01)


@given(st.floats(0.1, 10), st.one_of(st.none(), st.floats(0, 50)))
def test_a_change_helps_only_beyond_its_noise(after: float, noise: float | None) -> None:
    kept = followed_advice("host_work|a", older(decode=3), compared(phase("decode", 1, after, noise)), "baseline")
    if kept.outcome == "helped":
        assert noise is not None
        assert 100 * (1 - after) > noise
    if noise is None:
        assert kept.outcome == "no clear change"
    if kept.above_bound:
        assert 100 * (1 - after) - (noise or 0.0) > 40


@pytest.mark.parametrize("disturbed", ["old", "new"])
def test_a_run_that_others_slowed_down_decides_nothing(disturbed: str) -> None:
    def slowed(run: Summary, percent: float) -> Summary:
        return msgspec.structs.replace(run, recording=msgspec.structs.replace(run.recording, waiting_percent=percent))

    old, new = older(decode=3), compared(phase("decode", 10, 2))
    quiet = followed_advice("host_work", slowed(old, 0.4), slowed(new, 4.9), "baseline")
    assert (quiet.outcome, quiet.above_bound) == ("helped", True)
    old, new = (slowed(old, 51), new) if disturbed == "old" else (old, slowed(new, 51))
    kept = followed_advice("host_work", old, new, "baseline")
    assert (kept.saves_percent, kept.noise_percent, kept.outcome, kept.above_bound) == (
        80,
        None,
        "no clear change",
        False,
    )


def test_what_names_no_finding_or_compares_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"give one of host_work\|a, host_work\|b, no_idle_time"):
        followed_advice("launches", older(decode=3), compared(phase("decode", 1, 1)), "baseline")
    with pytest.raises(UsageError, match="no phase in common"):
        followed_advice("host_work", older(decode=3), compared(), "baseline")
