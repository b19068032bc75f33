"""Stop strings in a running engine: a completion ends with the token that completes a stop string, and its text ends
before the string."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCAB_SIZE

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine

pytestmark = pytest.mark.usefixtures("single_threaded")

LENGTH = 24


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu"))


def stopped(engine: Engine, token_ids: list[int], stops: list[str], least: int) -> tuple[list[int], str, str]:
    """Return the expected tokens, text and finish reason, found by searching the whole text of `token_ids`."""
    detokenizer = engine.new_detokenizer()
    pieces = [detokenizer.add(token_id) for token_id in token_ids]
    free = max(least - 1, 0)  # leading tokens whose text is not searched
    before, text = "".join(pieces[:free]), ""
    for number, piece in enumerate([*pieces[free:], detokenizer.finish()], start=free + 1):
        text += piece
        ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop and stop in text]
        if ends:
            reason = "stop" if number <= len(token_ids) else "length"
            return token_ids[:number], before + text[: min(ends)[1]], reason
    return token_ids, before + text, "length"


@given(
    prompt=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6),
    seed=st.integers(0, 1 << 16),
    cuts=st.lists(st.tuples(st.integers(0, LENGTH - 1), st.integers(0, 4)), max_size=3),
    held=st.integers(0, 3),
    least=st.integers(0, 8),
    overlap=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_completion_ends_where_a_stop_string_is_complete(
    engine: Engine,
    prompt: list[int],
    seed: int,
    cuts: list[tuple[int, int]],
    held: int,
    least: int,
    overlap: bool,
) -> None:
    """Draw stop strings: an empty one, one whose beginning ends the completion, and parts of the completion."""
    sampling = {"max_new_tokens": LENGTH, "temperature": 1.0, "seed": seed, "stop_on_eos": False}
    (free,) = engine.generate([prompt], SamplingParams(**sampling))
    text = free.text
    stops = ["", text[len(text) - held :] + "zzzz", *(text[start : start + length] for start, length in cuts)]
    scheduler = replace(engine, overlap=overlap).scheduler("online")
    scheduler.submit(prompt, SamplingParams(**sampling, stop=tuple(stops), min_new_tokens=least))
    events = []
    while scheduler.has_unfinished:
        events += scheduler.step()
    (output,) = scheduler.take_outputs()
    found = (output.token_ids, output.text, output.finish_reason)
    assert found == stopped(engine, free.token_ids, stops, least)
    assert "".join(event.text for event in events) == output.text
    assert [event.token_id for event in events] == output.token_ids
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + [output.finish_reason]
