"""The engine's Python API: generate, stream, schedulers, limits and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tiny import CONTEXT, EOS, VOCAB_SIZE

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import UsageError
from roseinfer.processors import usable_processors

pytestmark = pytest.mark.usefixtures("single_threaded")

MODES = get_args(Mode)


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu"))


def params(max_new_tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=max_new_tokens, **{"stop_on_eos": False, **more})


def test_generate_answers_in_the_prompts_order(engine: Engine) -> None:
    outputs = engine.generate(["a", "longer prompt", "b"], params(6))
    assert [output.request_id for output in outputs] == [0, 1, 2]
    assert [len(output.prompt_token_ids) for output in outputs] == [1, 13, 1]
    assert [len(output.token_ids) for output in outputs] == [6, 6, 6]


def test_the_repr_of_an_engine_is_one_line_without_its_model(engine: Engine) -> None:
    assert repr(engine).startswith(f"Engine('{engine.model_name}', 0.")
    assert repr(engine).endswith(" M parameters, float64 on cpu)")


def test_the_text_is_what_the_tokens_decode_to(engine: Engine) -> None:
    (output,) = engine.generate(["some words"], params(40, temperature=1.0, seed=1))
    assert output.text == engine.tokenizer.decode(output.token_ids)


def test_a_stream_gives_every_token_as_it_comes(engine: Engine) -> None:
    events = list(engine.stream("some words", params(9)))
    (output,) = engine.generate(["some words"], params(9))
    assert [event.token_id for event in events] == output.token_ids
    assert "".join(event.text for event in events) == output.text
    assert [event.finish_reason for event in events] == [None] * 8 + ["length"]


def test_a_stream_that_is_closed_early_gives_its_blocks_back(engine: Engine) -> None:
    stream = engine.stream("some words", params(50))
    next(stream)
    assert engine.pool.num_free < engine.pool.num_blocks
    stream.close()
    assert engine.pool.num_free == engine.pool.num_blocks


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_returns_only_what_is_new(engine: Engine, mode: Mode) -> None:
    scheduler = engine.scheduler(mode)
    first = scheduler.submit("a", params(3))
    assert [output.request_id for output in scheduler.run()] == [first]
    second = scheduler.submit("b", params(3))
    assert [output.request_id for output in scheduler.run()] == [second]
    assert scheduler.run() == []
    assert scheduler.step() == []


@pytest.mark.parametrize("mode", MODES)
def test_no_new_tokens_make_an_empty_completion_without_a_step(engine: Engine, mode: Mode) -> None:
    scheduler = engine.scheduler(mode)
    scheduler.submit("a", params(0))
    assert not scheduler.has_unfinished
    (output,) = scheduler.run()
    assert (output.token_ids, output.text, output.finish_reason, output.ttft_s) == ([], "", "length", None)


def test_a_completion_ends_at_eos_and_keeps_its_id(engine: Engine) -> None:
    certain = params(20, stop_on_eos=True, logit_bias={EOS: 1e4})
    (output,) = engine.generate(["a"], certain)
    assert (output.token_ids, output.text, output.finish_reason) == ([EOS], "", "stop")


def test_eos_is_a_token_like_others_when_it_ends_nothing(engine: Engine) -> None:
    (output,) = engine.generate(["a"], params(4, logit_bias={EOS: 1e4}))
    assert (output.token_ids, output.finish_reason) == ([EOS] * 4, "length")


def test_a_completion_ends_with_the_context(engine: Engine) -> None:
    (output,) = engine.generate(["x" * (CONTEXT - 3)], params(50))
    assert (len(output.token_ids), output.finish_reason) == (3, "length")


def test_a_prompt_that_fills_the_context_is_refused_with_the_arithmetic(engine: Engine) -> None:
    with pytest.raises(UsageError, match=f"prompt has {CONTEXT} tokens, but the context is {CONTEXT}"):
        engine.generate(["x" * CONTEXT])
    assert engine.generate(["x" * CONTEXT], params(0))[0].token_ids == []


def test_a_shorter_context_can_be_set(tiny_llama: Path) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), max_model_len=10))
    assert len(engine.generate(["xxxxx"], params(50))[0].token_ids) == 5
    with pytest.raises(UsageError, match="exceeds the model's context of 128"):
        build_engine(EngineConfig(model=str(tiny_llama), max_model_len=129))


def test_a_request_larger_than_the_pool_is_refused_with_the_arithmetic(tiny_llama: Path) -> None:
    four_blocks = EngineConfig(model=str(tiny_llama), dtype="float64", kv_cache_memory=str(4 * 16 * 512))
    engine = build_engine(four_blocks)
    assert engine.pool.num_blocks == 4
    with pytest.raises(
        UsageError, match="30 prompt and 36 new tokens needs 5 KV blocks of 16 tokens, but the pool has 4"
    ):
        engine.generate(["x" * 30], params(36))
    assert len(engine.generate(["x" * 30], params(35))[0].token_ids) == 35


def test_a_refused_request_leaves_the_others_alone(engine: Engine) -> None:
    scheduler = engine.scheduler("online")
    scheduler.submit("a", params(3))
    with pytest.raises(UsageError):
        scheduler.submit("x" * CONTEXT, params(3))
    scheduler.submit("b", params(3))
    assert [output.request_id for output in scheduler.run()] == [0, 1]


def test_aborting_keeps_what_there_is_and_ends_the_request_once(engine: Engine) -> None:
    scheduler = engine.scheduler("online")
    kept, dropped = scheduler.submit("a", params(6)), scheduler.submit("b", params(6))
    scheduler.step()
    scheduler.step()
    scheduler.abort(dropped)
    scheduler.abort(dropped)
    scheduler.abort(99)
    outputs = {output.request_id: output for output in scheduler.run()}
    assert (len(outputs[dropped].token_ids), outputs[dropped].finish_reason) == (2, "abort")
    assert (len(outputs[kept].token_ids), outputs[kept].finish_reason) == (6, "length")
    scheduler.abort(kept)
    assert scheduler.run() == []


def test_aborting_the_rest_returns_the_last_tokens_in_flight(engine: Engine) -> None:
    scheduler = replace(engine, overlap=True).scheduler("online")
    kept, dropped = scheduler.submit("a", params(2)), scheduler.submit("b", params(6))
    scheduler.step()
    scheduler.step()
    scheduler.abort(dropped)  # the last token of the other request is in flight, and nothing is left to launch
    events = scheduler.step()
    assert [(event.request_id, event.finish_reason) for event in events] == [(kept, "length")]
    assert scheduler.last_plan is None
    assert not scheduler.has_unfinished
    assert [len(output.token_ids) for output in scheduler.take_outputs()] == [2, 1]


def test_naive_runs_one_request_at_a_time(engine: Engine) -> None:
    scheduler = engine.scheduler("naive")
    for prompt in ("a", "b"):
        scheduler.submit(prompt, params(3))
    order = []
    while scheduler.has_unfinished:
        order += [event.request_id for event in scheduler.step()]
    assert order == [0, 0, 0, 1, 1, 1]


def test_prompts_may_be_token_ids_of_any_integer_kind(engine: Engine) -> None:
    expected = engine.generate([[1, 2, 3]], params(4))[0]
    for ids in ((1, 2, 3), list(np.array([1, 2, 3]))):
        assert engine.generate([ids], params(4))[0].token_ids == expected.token_ids


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ([1, VOCAB_SIZE], f"token id {VOCAB_SIZE}"),
        ([-1], "token id -1"),
        ([1, 2.5], "list of token ids"),
        ([1, "2"], "list of token ids"),
        ([{"role": "user", "content": "hi"}], "chat template"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(engine: Engine, prompt: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        engine.generate([prompt])


def test_an_engine_serves_several_schedulers_at_once(engine: Engine) -> None:
    first, second = engine.scheduler("online"), engine.scheduler("offline")
    for scheduler in (first, second):
        scheduler.submit("some words", params(8))
    while first.has_unfinished or second.has_unfinished:
        first.step()
        second.step()
    assert first.run()[0].token_ids == second.run()[0].token_ids


def test_every_position_draws_anew(engine: Engine) -> None:
    (output,) = engine.generate(["a"], params(40, temperature=1e6, seed=3))
    assert len(set(output.token_ids)) > 30  # of 258 tokens that are all about equally likely


def test_the_number_of_threads_can_be_set(tiny_llama: Path) -> None:
    before = torch.get_num_threads()
    try:
        build_engine(EngineConfig(model=str(tiny_llama), threads=1))
        assert torch.get_num_threads() == 1
        with pytest.raises(
            UsageError, match=r"^--threads 99999 is more than the \d+ that this process may run at once"
        ):
            build_engine(EngineConfig(model=str(tiny_llama), threads=99999))
        every = len(usable_processors())
        build_engine(EngineConfig(model=str(tiny_llama), threads=every))
        assert torch.get_num_threads() == every
    finally:
        torch.set_num_threads(before)
