"""Collectives of several ranks are matched, and split into transfer and waits; the slow rank is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_traces import Job, Rank, all_reduce, job

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.rank_structs import JobSummary

MESSAGE = {"Collective name": "allreduce", "dtype": "BFloat16", "In msg nelems": 1 << 20, "Out msg nelems": 1 << 20}


def straggler(rank: int = 2, ranks: int = 4, steps: int = 5, **options: Any) -> Job:
    """Return a job in which one rank computes 9 ms per step and the others 5 ms."""
    return job([[9000 if one == rank else 5000 for one in range(ranks)]] * steps, **options)


def job_of(summary: Summary) -> JobSummary:
    assert summary.job is not None
    return summary.job


def waits_of(summary: Summary) -> dict[int, float | None]:
    return {row.rank: row.wait_ms for row in summary.ranks}


def near(truth: Any) -> Any:
    return pytest.approx(truth, abs=2e-3)


def test_a_slow_rank_is_named_with_what_it_costs(tmp_path: Path) -> None:
    summary = summarize_trace(straggler().write(tmp_path / "job"))
    assert summary.verdict.kind == "straggler"
    assert "4.0 ms of 10.3 ms per step are waits for rank 2, which computes 9.0 ms where the others take 5.0 ms" in (
        summary.verdict.headline
    )
    assert waits_of(summary) == near({0: 20.0, 1: 20.0, 2: 0.0, 3: 20.0})
    first = summary.findings[0]
    assert (first.kind, first.where.rank, first.where.kernel) == ("waiting", 2, "gemm")
    assert "clocks, power, temperature" in summary.verdict.advice[0]
    assert [step.critical_rank for step in job_of(summary).steps] == [2] * 5
    assert [step.wait_ms for step in job_of(summary).steps] == near([3.0] * 5)


def test_garbage_that_only_the_slow_rank_collects_is_named(tmp_path: Path) -> None:
    late = straggler(late_us={2: 6000})
    for one in late.ranks.values():
        loading = [event for event in one.events if event["name"].startswith("enumerate")]
        one.events[:] = [event for event in one.events if event not in loading]
        for event in loading:
            one.add("python_function", "train.py(7): step", event["ts"], event["dur"])
            one.add("python_function", "<built-in function collect>", event["ts"] + 5, event["dur"] - 10)
            one.add("python_function", "Python GC", event["ts"] + 6, event["dur"] - 12)
    summary = summarize_trace(late.write(tmp_path / "job"))
    found = job_of(summary).straggler
    assert found is not None
    assert found.collection is not None
    assert (found.rank, found.place, found.does[0].part) == (2, "Python GC", "python")
    assert (found.collection.ms, found.collection.others_ms) == (5.99, 0.0)
    assert "It collects garbage for 6.0 ms per step, the others for 0.0 ms." in summary.findings[0].sentence
    assert "gc.collect()" in summary.verdict.advice[0]


def test_waits_and_transfer_of_a_job_add_up_to_its_exposed_communication(tmp_path: Path) -> None:
    summary = summarize_trace(straggler().write(tmp_path / "job"))
    found, budget = job_of(summary), summary.budget
    assert budget is not None
    assert found.exposed_wait_ms + found.exposed_transfer_ms == near(budget.total.exposed_communication_ms)
    assert (found.wait_ms, found.transfer_ms) == near((60.0, 25.0))


def test_messages_give_bytes_and_bandwidth(tmp_path: Path) -> None:
    row = summarize_trace(straggler(**MESSAGE).write(tmp_path / "job")).collectives[0]
    assert (row.name, row.count, row.ranks, row.straggler) == ("allreduce", 5, [0, 1, 2, 3], 2)
    assert row.bytes == 2 << 20
    assert row.bus_gb_per_s == pytest.approx(2 * 3 / 4 * (2 << 20) / 1.25e6, abs=0.01)
    assert row.wait_ms_by_rank == near({0: 20.0, 1: 20.0, 2: 0.0, 3: 20.0})
    assert row.largest_wait_ms == near(4.0)


def test_data_loading_on_one_rank_is_what_the_others_wait_for(tmp_path: Path) -> None:
    summary = summarize_trace(job([[5000] * 4] * 4, late_us={1: 6000}).write(tmp_path / "job"))
    late = job_of(summary).straggler
    assert late is not None
    assert (late.rank, late.does[0].part, late.does[0].ms) == (1, "data_loading", near(6.0))
    assert "which loads data for 6.0 ms where the others take 0.0 ms" in summary.verdict.headline
    assert any("Speed up data loading on rank 1" in line and "__next__" in line for line in summary.verdict.advice)


def test_more_calls_on_one_rank_are_work_to_balance(tmp_path: Path) -> None:
    made = straggler(rank=0)
    for event in list(made.ranks[0].events):
        if event["name"] == "gemm":
            half = event["dur"] / 2
            event["dur"] = half
            made.ranks[0].events.append(event | {"ts": event["ts"] + half, "args": event["args"] | {"correlation": 0}})
    summary = summarize_trace(made.write(tmp_path / "job"))
    assert "rank 0 runs gemm 2.0 times as often" in summary.verdict.advice[0]


def test_a_longer_batch_on_one_rank_is_work_to_balance(tmp_path: Path) -> None:
    made = straggler(rank=1)
    for rank, one in made.ranks.items():
        for event in one.events:
            if event["name"].startswith("ProfilerStep"):
                event["name"] = f"roseinfer.step[prefill bs=1 tokens={180 if rank == 1 else 100}]"
    summary = summarize_trace(made.write(tmp_path / "job"))
    assert "steps of rank 1 have 1.8 times the tokens" in summary.verdict.advice[0]


def test_ranks_that_take_turns_are_imbalanced(tmp_path: Path) -> None:
    times = [[9000 if rank == step % 4 else 5000 for rank in range(4)] for step in range(8)]
    summary = summarize_trace(job(times).write(tmp_path / "job"))
    assert summary.verdict.kind == "imbalanced"
    assert job_of(summary).straggler is None
    assert [step.critical_rank for step in job_of(summary).steps] == [0, 1, 2, 3] * 2
    assert "Even out the ranks" in summary.verdict.advice[0]


def test_transfer_alone_is_communication_bound(tmp_path: Path) -> None:
    summary = summarize_trace(job([[5000] * 4] * 4, transfer_us=5000).write(tmp_path / "job"))
    assert summary.verdict.kind == "communication_bound"
    assert "slower rank" not in "\n".join(summary.verdict.advice)


def test_many_small_collectives_are_to_be_bucketed_whatever_they_wait(tmp_path: Path) -> None:
    times = [[900 if rank == 0 else 600 for rank in range(2)]] * 3
    summary = summarize_trace(job(times, transfer_us=20, per_step=40).write(tmp_path / "job"))
    assert any(
        "Bucket the collectives" in line and "40 times per step, 20.0 us each" in line
        for line in summary.verdict.advice
    )


def test_what_computation_hides_is_said(tmp_path: Path) -> None:
    made = job([[5000] * 2] * 3, transfer_us=1000)
    for one in made.ranks.values():
        for event in [event for event in one.events if event["name"].startswith("nccl")]:
            one.run(event["dur"] * 0.75, "hidden_by", at=event["ts"], stream=9)
    row = summarize_trace(made.write(tmp_path / "job")).collectives[0]
    assert row.hidden_percent == pytest.approx(75, abs=0.1)


def test_the_longest_waits_are_listed_one_by_one(tmp_path: Path) -> None:
    times = [[1000, 1000], [1000, 4000], [2000, 1000]]
    found = job_of(summarize_trace(job(times).write(tmp_path / "job"))).longest_waits
    assert [(one.step, one.place, one.last_rank) for one in found] == [(1, 1, 1), (2, 2, 0)]
    assert [one.skew_ms for one in found] == near([3.0, 1.0])
    assert found[0].wait_ms_by_rank == near({0: 3.0, 1: 0.0})
    assert found[0].transfer_ms == near(1.25)


def grouped() -> Job:
    """Return a job in which ranks 0 and 1 are one group, 2 and 3 another of the same name; all are a third one."""
    ranks = [Rank(one) for one in range(4)]
    for step in range(3):
        for one in ranks:
            one.run(1000 + 100 * one.rank + 10 * step)
        for name, members in (("[0, 1]", ranks[:2]), ("[2, 3]", ranks[2:])):
            group = {"Process Group Name": "tp", "Process Group Ranks": name, "Group size": 2}
            all_reduce(members, 200, step, **MESSAGE, **group)
        group = {"Process Group Name": "0", "Process Group Ranks": "[0, 1, 2, 3]", "Group size": 4}
        all_reduce(ranks, 500, step, **MESSAGE, **group)
    return Job({one.rank: one for one in ranks}, [])


def test_groups_are_matched_each_for_itself(tmp_path: Path) -> None:
    summary = summarize_trace(grouped().write(tmp_path / "job"))
    found = {(row.group, tuple(row.ranks)): row.wait_ms_by_rank for row in summary.collectives}
    assert found == {
        ("tp", (0, 1)): near({0: 0.3, 1: 0.0}),
        ("tp", (2, 3)): near({2: 0.3, 3: 0.0}),
        ("0", (0, 1, 2, 3)): near({0: 0.6, 1: 0.6, 2: 0.0, 3: 0.0}),
    }


def test_what_a_rank_lacks_of_several_groups_is_added_up(tmp_path: Path) -> None:
    made = grouped()
    events = made.ranks[3].events
    collectives = [event for event in events if event["name"].startswith("nccl")]
    lost = collectives[2:]  # of three steps with one of its pair and one of all: all but those of the first step
    lost.remove(next(one for one in lost if one["args"]["Process Group Name"] == "0"))
    events[:] = [event for event in events if event not in lost]
    (missing,) = job_of(summarize_trace(made.write(tmp_path / "job"))).missing
    assert (missing.rank, missing.count, missing.of, missing.first) == (3, 3, 6, 1)


def test_collectives_of_unnamed_groups_are_not_matched_over_all_ranks(tmp_path: Path) -> None:
    summary = summarize_trace(straggler(**MESSAGE, **{"Group size": 2}).write(tmp_path / "job"))
    assert summary.job is None
    assert "The collectives of the ranks are not matched" in "\n".join(note.message for note in summary.trust)
    assert summary.verdict.kind == "communication_bound"


def test_groups_of_one_rank_wait_for_nobody(tmp_path: Path) -> None:
    summary = summarize_trace(straggler(**MESSAGE, **{"Group size": 1}).write(tmp_path / "job"))
    assert summary.job is None


def test_short_collectives_that_are_not_matched_are_said_too(tmp_path: Path) -> None:
    made = job([[5000, 5000, 5000, 5000]] * 2, transfer_us=100, **MESSAGE, **{"Group size": 2})
    notes = [note.message for note in summarize_trace(made.write(tmp_path / "job")).trust]
    assert any("The collectives of the ranks are not matched" in note for note in notes)


@pytest.mark.parametrize(("shift_us", "is_said"), [(99.95, False), (100.05, True)])
def test_clocks_that_differ_by_a_tenth_of_a_millisecond_are_said(
    tmp_path: Path, shift_us: float, is_said: bool
) -> None:
    made = job([[5000, 5000]] * 3).write(tmp_path / "job", clock={1: shift_us})
    notes = [note.message for note in summarize_trace(made).trust]
    assert any("that of rank 1 by" in note for note in notes) == is_said


def test_a_rank_that_died_lacks_the_last_collectives(tmp_path: Path) -> None:
    made = straggler()
    end = max(event["ts"] for event in made.ranks[3].events) * 0.6
    made.ranks[3].events[:] = [event for event in made.ranks[3].events if event["ts"] + event["dur"] < end]
    summary = summarize_trace(made.write(tmp_path / "job"))
    (missing,) = job_of(summary).missing
    assert (missing.rank, missing.count, missing.of, missing.first) == (3, 3, 5, 2)
    assert "Rank 3 lacks 3 of 5 collectives, from number 2 on" in "\n".join(note.message for note in summary.trust)
    assert waits_of(summary) == near({0: 20.0, 1: 20.0, 2: 0.0, 3: 8.0})


@pytest.mark.parametrize(("drop", "is_said"), [((), False), ((2,), True)])
def test_a_rank_without_a_file_is_warned_of(tmp_path: Path, drop: tuple[int, ...], is_said: bool) -> None:
    """Without the slow rank, its lateness looks like a slow transfer."""
    made = straggler(**MESSAGE, **{"Group size": 4})
    summary = summarize_trace(made.write(tmp_path / "job", drop=drop))
    warnings = [note.message for note in summary.trust if note.level == "warning"]
    assert any("Collectives of 4 ranks" in note and "only 3" in note for note in warnings) == is_said
    assert (summary.verdict.kind == "straggler") == (not is_said)


def test_a_rank_without_the_first_collectives_is_matched_by_its_ends(tmp_path: Path) -> None:
    """Without steps, only the times tell that the head is missing, on whatever clock."""
    made = job([[5000 + 37 * step, 5000 + 91 * (step * step % 5)] for step in range(9)])
    for one in made.ranks.values():
        one.events[:] = [event for event in one.events if not event["name"].startswith("ProfilerStep")]
    late = made.ranks[1].events
    late[:] = [event for event in late if event["ts"] > 20_000]
    summary = summarize_trace(made.write(tmp_path / "job", clock={1: 5e6}))
    (missing,) = job_of(summary).missing
    assert (missing.rank, missing.first) == (1, 0)
    truth = made.truth[missing.count :]
    assert waits_of(summary) == near({rank: sum(one.waits[rank] for one in truth) / 1000 for rank in (0, 1)})
    assert summary.ranks[1].clock_offset_us == near(5e6)
    assert "that of rank 1 by 5,000.0 ms" in "\n".join(note.message for note in summary.trust)


@pytest.mark.parametrize(("first", "stop"), [(0, 6), (3, 9), (2, 7)])
def test_a_rank_with_fewer_steps_is_matched_wherever_its_recording_began(tmp_path: Path, first: int, stop: int) -> None:
    made = job([[5000 + 370 * (step % 4), 5000 + 910 * (step * step % 5)] for step in range(9)])
    short = made.ranks[1].events
    begins = [event["ts"] for event in short if event["name"].startswith("ProfilerStep")]
    end = begins[stop] if stop < len(begins) else float("inf")
    short[:] = [event for event in short if begins[first] <= event["ts"] < end]
    summary = summarize_trace(made.write(tmp_path / "job", clock={1: 3e5}))
    (missing,) = job_of(summary).missing
    assert (missing.rank, missing.count, missing.first) == (1, 9 - (stop - first), 0 if first else stop)
    truth = made.truth[first:stop]
    assert waits_of(summary) == near({rank: sum(one.waits[rank] for one in truth) / 1000 for rank in (0, 1)})


def test_waits_before_the_recording_of_the_last_rank_began_blame_nobody(tmp_path: Path) -> None:
    """Rank 1's profiler starts when the others already wait for it."""
    made = job([[5000, 20_000], [5000, 5000], [5000, 5000]])
    late = made.ranks[1].events
    late[:] = [event for event in late if event["ts"] > 15_000]
    for one in made.ranks.values():
        one.events[:] = [event for event in one.events if not event["name"].startswith("ProfilerStep")]
    summary = summarize_trace(made.write(tmp_path / "job"))
    assert job_of(summary).unrecorded_wait_ms == near(15.0)
    assert job_of(summary).straggler is None
    assert "15.0 ms of the waits are before the recording" in "\n".join(note.message for note in summary.trust)


def test_collectives_of_gloo_are_matched(tmp_path: Path) -> None:
    for rank in (0, 1):
        events: list[dict[str, Any]] = []
        for step in range(4):
            begin = 10_000 * step
            compute = 8000 if rank == 0 else 2000
            for cat, name, tid, ts, dur in (
                ("user_annotation", f"ProfilerStep#{step}", 1, begin, 9990),
                ("cpu_op", "aten::mm", 1, begin + 10, compute),
                ("user_annotation", "gloo:all_reduce", 2, begin + compute + 20, 9900 - compute),
            ):
                events.append({"ph": "X", "cat": cat, "name": name, "pid": rank, "tid": tid, "ts": ts, "dur": dur})
        (tmp_path / f"rank{rank}.json").write_text(
            json.dumps({"distributedInfo": {"rank": rank}, "traceEvents": events})
        )
    summary = summarize_trace(tmp_path)
    assert waits_of(summary) == near({0: 0.0, 1: 24.0})
    assert summary.budget
    for one, compute_ms in zip(summary.budget.devices, (32, 8), strict=True):
        assert one.compute_ms == near(compute_ms)
        assert one.exposed_communication_ms == near(39.6 - compute_ms)
        assert one.host_ms.python == near(one.wall_ms - 39.6)
    late = job_of(summary).straggler
    assert late is not None
    assert (late.rank, late.does[0].part, late.kernel) == (0, "compute_ms", "aten::mm")
    assert summary.verdict.kind == "straggler"


times = st.lists(st.lists(st.integers(50, 3000), min_size=3, max_size=3), min_size=2, max_size=5)
RARELY = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@RARELY
@given(times=times, transfer=st.integers(1, 2000), per_step=st.integers(1, 3))
def test_every_figure_of_a_random_job_is_recovered(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], transfer: int, per_step: int
) -> None:
    made = job(times, transfer_us=transfer, per_step=per_step)
    summary = summarize_trace(made.write(tmp_path_factory.mktemp("job")))
    assert waits_of(summary) == near(made.waits())
    assert [row.transfer_ms for row in summary.ranks] == near([made.transfer()] * 3)
    assert [row.compute_ms for row in summary.ranks] == near(
        [per_step * sum(step[rank] for step in times) / 1000 for rank in range(3)]
    )
    by_step = [sum(sum(one.waits.values()) for one in made.truth if one.step == step) for step in range(len(times))]
    assert [step.wait_ms for step in job_of(summary).steps] == near([us / 3000 for us in by_step])


@RARELY
@given(times=times, shift=st.integers(-10_000_000, 10_000_000))
def test_the_clock_of_one_rank_and_its_file_change_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], shift: int
) -> None:
    made, folder = job(times), tmp_path_factory.mktemp("job")
    plain = summarize_trace(made.write(folder / "plain"))
    shifted = summarize_trace(made.write(folder / "shifted", clock={1: shift}))
    merged = summarize_trace(made.write_one_file(folder / "merged.json"))
    assert shifted.job == merged.job == plain.job
    assert shifted.collectives == merged.collectives == plain.collectives
    assert shifted.budget == plain.budget
    offsets = [row.clock_offset_us for row in shifted.ranks]
    assert offsets == near([0.0, shift, 0.0])


@RARELY
@given(times=times, dropped=st.integers(0, 2))
def test_without_a_rank_the_others_wait_only_for_each_other(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], dropped: int
) -> None:
    """A wait for the dropped rank alone looks like transfer: nothing in the trace tells the difference."""
    made = job(times)
    summary = summarize_trace(made.write(tmp_path_factory.mktemp("job"), drop=[dropped]))
    left = [rank for rank in range(3) if rank != dropped]
    expected = {
        rank: sum(one.waits[rank] - min(one.waits[other] for other in left) for one in made.truth) / 1000
        for rank in left
    }
    assert waits_of(summary) == near(expected)
