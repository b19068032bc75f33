"""Service-level objectives: their notation, and the requests that meet them."""

import pytest

from roseinfer.bench.request_figures import RequestFigures
from roseinfer.bench.slo import Slo, goodput, parse_slo
from roseinfer.engine.outputs import FinishReason
from roseinfer.errors import UsageError


def request(*token_times_s: float, finish_reason: FinishReason = "length", request_id: int = 0) -> RequestFigures:
    return RequestFigures(
        repeat=0,
        request_id=request_id,
        sample_index=0,
        prompt_tokens=1,
        completion_tokens=len(token_times_s),
        finish_reason=finish_reason,
        arrival_s=0.0,
        submitted_s=0.0,
        token_times_s=list(token_times_s),
    )


def test_limits_are_written_with_units() -> None:
    assert parse_slo("ttft=200ms,tpot=20ms") == Slo(ttft_ms=200.0, tpot_ms=20.0)
    assert parse_slo(" e2e = 1.5s , share = 99% ") == Slo(e2e_ms=1500.0, share_percent=99.0)
    assert str(parse_slo("ttft=0.2s,tpot=20ms")) == "ttft=200ms,tpot=20ms,share=90%"


def test_a_limit_without_a_unit_is_refused_with_both_possible_units() -> None:
    with pytest.raises(UsageError, match="'ttft=200' has no unit: give ttft=200ms or ttft=200s"):
        parse_slo("ttft=200,tpot=1ms")


@pytest.mark.parametrize("text", ["", "ttft", "ttft=-1ms", "p99=3ms", "share=90%", "ttft=1ms,share=101%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give limits such as ttft=200ms,tpot=20ms"):
        parse_slo(text)


def test_a_request_meets_an_objective_when_it_meets_every_limit() -> None:
    slo = parse_slo("ttft=200ms,tpot=20ms,e2e=400ms")
    assert slo.is_met_by(request(0.2, 0.22, 0.24))
    assert not slo.is_met_by(request(0.201, 0.21))
    assert not slo.is_met_by(request(0.1, 0.121))
    assert not slo.is_met_by(request(*(0.1 + 0.019 * index for index in range(18))))


def test_a_single_token_has_no_tpot_to_miss_and_an_empty_or_aborted_completion_meets_nothing() -> None:
    slo = parse_slo("ttft=200ms,tpot=20ms")
    assert slo.is_met_by(request(0.1))
    assert not slo.is_met_by(request())
    assert not slo.is_met_by(request(0.1, finish_reason="abort"))


def test_goodput_is_per_second_of_the_passes() -> None:
    requests = [request(first_s, request_id=index) for index, first_s in enumerate((0.1, 0.3, 0.15))]
    found = goodput(parse_slo("ttft=200ms"), requests, elapsed_s=4.0)
    assert (found.met_percent, found.requests_per_s) == (pytest.approx(200 / 3), 0.5)


def test_a_request_meets_an_objective_when_all_its_completions_do() -> None:
    samples = [
        request(0.1, request_id=0),
        request(0.3, request_id=0),
        request(0.1, request_id=1),
        request(0.2, request_id=1),
    ]
    found = goodput(parse_slo("ttft=200ms"), samples, elapsed_s=4.0)
    assert (found.met_percent, found.requests_per_s) == (50, 0.25)


def test_the_measured_median_is_described_for_each_limit() -> None:
    both = [request(0.1, 0.3), request(0.25)]
    assert parse_slo("ttft=1ms,tpot=1ms").medians(both) == "median TTFT 175 ms, median TPOT 200 ms"
    assert parse_slo("tpot=1ms").medians([request(0.25)]) == "no TPOT"


def test_a_long_limit_is_written_without_an_exponent() -> None:
    assert str(parse_slo("e2e=2000s")) == "e2e=2000000ms,share=90%"
