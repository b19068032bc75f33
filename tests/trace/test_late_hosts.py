"""Waits for ranks whose hosts do not run ahead are explained by that."""

from pathlib import Path

from rank_traces import Job, led_job

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.finding_structs import Finding

COMPUTE = [9000.0, 9020.0, 9010.0, 9030.0, 9020.0, 9040.0, 9030.0, 9050.0]


def summary_of(made: Job, folder: Path) -> Summary:
    return summarize_trace(made.write(folder))


def waiting(summary: Summary) -> Finding:
    return next(finding for finding in summary.findings if finding.kind == "waiting")


def test_a_rank_that_begins_late_because_its_host_does_not_run_ahead_is_told_so(tmp_path: Path) -> None:
    summary = summary_of(led_job(COMPUTE, [800.0] * 8), tmp_path / "job")
    assert summary.job is not None
    late = summary.job.straggler
    assert late is not None
    assert (late.rank, late.does[0].part, late.place) == (1, "python", "roseinfer.prepare_inputs")
    assert waiting(summary).advice == (
        "Begin steps earlier on rank 1: the host there begins a step only after the GPU has ended the step before, so "
        "that the GPU waits, longest for roseinfer.prepare_inputs. The hosts of the other ranks run ahead."
    )


def test_parts_of_a_host_that_are_short_alone_explain_waits_together(tmp_path: Path) -> None:
    """Of 0.8 ms, Python, operators, a runtime call and a synchronizing one take about 0.2 ms each."""
    made = led_job([2 * us for us in COMPUTE], [800.0] * 8)
    for event in list(made.ranks[1].events):
        if event["name"] == "roseinfer.prepare_inputs":
            made.ranks[1].add("cpu_op", "aten::copy_", event["ts"] + 1, 600)
            made.ranks[1].add("cuda_runtime", "cudaStreamIsCapturing", event["ts"] + 200, 200)
            made.ranks[1].add("cuda_runtime", "cudaStreamSynchronize", event["ts"] + 400, 200)
    summary = summary_of(made, tmp_path / "job")
    assert summary.job is not None
    late = summary.job.straggler
    assert late is not None
    assert (late.rank, [one.part for one in late.does], late.place) == (1, ["host_ms"], "roseinfer.prepare_inputs")
    assert "waits for rank 1, which waits 788.0 us for its host where the others take" in waiting(summary).sentence
    assert (waiting(summary).where.span, waiting(summary).where.operator) == ("roseinfer.prepare_inputs", None)


def test_ranks_that_begin_late_in_turns_are_told_what_they_have_in_common(tmp_path: Path) -> None:
    summary = summary_of(led_job(COMPUTE, [1600.0] * 8, turns_us=100, ranks=4), tmp_path / "job")
    assert summary.job is not None
    assert summary.job.straggler is None
    assert "On ranks 1, 2 and 3 the GPU waits 1.6 ms per step for its host, on the other ranks" in (
        waiting(summary).sentence
    )
    assert waiting(summary).advice.startswith("Begin steps earlier on ranks 1, 2 and 3: ")
