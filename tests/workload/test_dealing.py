"""Requests are dealt to engines evenly and in order, and the results of the engines' passes become one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from roseinfer.config import SamplingParams
from roseinfer.engine.outputs import RequestOutput
from roseinfer.workload.dealing import EncodedRequest, dealt, joined
from roseinfer.workload.load_runner import WorkloadResult


def request(length: int, *, arrival_s: float = 0.0, continues: int | None = None) -> EncodedRequest:
    params = SamplingParams(max_new_tokens=4)
    return EncodedRequest(prompt=[length] * length, params=params, arrival_s=arrival_s, continues=continues)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    turns=st.integers(1, 3),
    num_engines=st.integers(1, 4),
)
def test_every_request_is_dealt_once_and_conversations_stay_together(
    lengths: list[int], turns: int, num_engines: int
) -> None:
    count = len(lengths)
    load = [request(lengths[at % count], continues=at - count if at >= count else None) for at in range(count * turns)]
    parts = dealt(load, num_engines)
    assert sorted(len(each.prompt) for part in parts for each in part) == sorted(lengths * turns)
    for part in parts:
        for each in part:
            if each.continues is not None:
                assert part[each.continues].prompt == each.prompt
    work = [sum(len(each.prompt) + 4 for each in part) for part in parts]
    assert max(work) - min(work) <= turns * (max(lengths) + 4)


def test_requests_are_dealt_in_the_order_of_their_arrival() -> None:
    load = [request(3, arrival_s=0.2), request(9, arrival_s=0.1), request(2, arrival_s=0.3)]
    assert dealt(load, 2) == [[load[1]], [load[0], load[2]]]


def result(started_s: float, add_s: float, run_s: float, **changes: Any) -> WorkloadResult:
    fields: dict[str, Any] = {"mode": "offline", "outputs": [], "steps": [], "arrivals_s": []}
    counts = {"preemptions": 1, "queried_tokens": 10, "cached_tokens": 3}
    return WorkloadResult(started_s=started_s, add_s=add_s, run_s=run_s, **fields | counts | changes)


def output(request_id: int, token: int) -> RequestOutput:
    return RequestOutput(
        request_id=request_id,
        sample_index=0,
        prompt_token_ids=[1],
        token_ids=[token],
        text="",
        finish_reason="length",
        submitted_s=0.0,
        token_times_s=[1.0],
        logprobs=None,
    )


def test_a_joined_result_lasts_from_the_first_start_to_the_last_end() -> None:
    first = result(10.0, 0.5, 2.0, outputs=[output(0, 5), output(1, 6)], arrivals_s=[10.0, 10.1])
    second = result(10.25, 0.25, 3.0, outputs=[output(0, 7)], arrivals_s=[10.25])
    both = joined([first, second])
    assert (both.started_s, both.add_s, both.run_s) == (10.0, 0.5, 3.0)
    assert [(each.request_id, each.token_ids) for each in both.outputs] == [(0, [5]), (1, [6]), (2, [7])]
    assert both.arrivals_s == [10.0, 10.1, 10.25]
    assert (both.preemptions, both.queried_tokens, both.cached_tokens) == (2, 20, 6)
