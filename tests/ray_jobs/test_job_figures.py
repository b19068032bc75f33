"""Figures of a job on Ray, from answers whose times are known, and the blocks that its reader makes."""

import pytest

from roseinfer.config import SamplingParams
from roseinfer.errors import UsageError
from roseinfer.ray.blocks import BlockAnswer, PlacedRequest, blocks, drawn_blocks
from roseinfer.ray.job_figures import job_figures, scaling_percent
from roseinfer.workload.workload_request import WorkloadRequest


def answer(actor: str, started_s: float, ended_s: float, *, idle_s: float = 0.0) -> BlockAnswer:
    return BlockAnswer(
        number=0, actor=actor, started_s=started_s, ended_s=ended_s, idle_s=idle_s, answers=4, completion_tokens=100
    )


def test_speed_counts_from_the_first_block_and_a_straggler_is_named() -> None:
    job = job_figures(
        [answer("a", 10, 14), answer("a", 12, 20, idle_s=0.5), answer("b", 11, 15), answer("c", 11, 16)], begun_s=7.0
    )
    assert (job.startup_s, job.elapsed_s, job.requests, job.completion_tokens_per_s) == (3.0, 10.0, 16, 40.0)
    assert [each.completion_tokens_per_s for each in job.actors] == [20.0, 25.0, 20.0]
    assert [each.waited_s for each in job.actors] == [0.0, 5.0, 4.0]
    assert [each.busy_percent for each in job.actors] == [95.0, 100.0, 100.0]
    assert job.straggler == "a"
    assert job_figures([answer("a", 10, 20), answer("b", 10, 20.2)], begun_s=0.0).straggler is None
    one = job_figures([answer("a", 0, 5)], begun_s=0.0)
    assert scaling_percent(job, one, 3) == pytest.approx(100 * 40 / 60)


def placed(count: int) -> list[PlacedRequest]:
    return [PlacedRequest(n, WorkloadRequest(id=n, prompt="x", params=SamplingParams())) for n in range(count)]


def test_blocks_hold_all_requests_in_order_and_end_with_a_failure_to_read() -> None:
    assert [[each.place for each in block.requests] for block in blocks(placed(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(blocks([], 2)) == []

    def failing() -> list[PlacedRequest]:
        yield from placed(3)
        raise UsageError("changed")

    *whole, last = blocks(failing(), 2)
    assert [block.number for block in whole] == [0, 1]
    assert (last.number, last.requests) == (2, [])
    assert str(last.failure.error()) == "changed"
    assert isinstance(last.failure.error(), UsageError)
    drawn = list(drawn_blocks(7, 3, recorded=1))
    assert [block.drawn for block in drawn] == [(0, 3), (3, 6), (6, 7)]
    assert [block.records for block in drawn] == [False, True, False]
