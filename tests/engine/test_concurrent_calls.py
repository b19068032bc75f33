"""`benchmarks.calls`, which is run with more calls for docs/reliability.md, finds nothing lost, and would say so."""

import pytest

from benchmarks import calls

pytestmark = pytest.mark.usefixtures("single_threaded")


def test_calls_at_once_differ_in_nothing_and_cancelled_ones_leave_nothing() -> None:
    found = calls.run(calls=8, threads=4, cancellations=30, seed=1)
    happened = found["cancelled"]
    assert found["different_from_alone"] == happened["different_from_alone"] == found["blocks_leaked"] == 0
    assert happened["tasks_cancelled"] + happened["streams_left"] + happened["ended_before"] == 30
    assert happened["tasks_cancelled"] > 0
    assert happened["streams_left"] > 0
    assert happened["kept"] > 0


def test_an_answer_of_another_call_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "answers_at_once", lambda engine, chosen, threads: [[] for _ in chosen])
    assert calls.run(calls=3, threads=1, cancellations=0, seed=1)["different_from_alone"] == 3
