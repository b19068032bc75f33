"""Requests of a workload: published benchmarks id for id, shared prefixes, conversations, arrivals."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from scripted import TINY, ScriptedEngine

from roseinfer.config import SamplingParams, WorkloadConfig
from roseinfer.config_file import load_config
from roseinfer.errors import UsageError
from roseinfer.workload.load_plan import PlannedRequest, plan_load

SAMPLING = SamplingParams(max_new_tokens=5)


def engine(vocab_size: int = 50_257) -> ScriptedEngine:
    return ScriptedEngine(model_config=replace(TINY, vocab_size=vocab_size))


def planned(vocab_size: int = 50_257, sampling: SamplingParams = SAMPLING, **workload: object) -> list[PlannedRequest]:
    return plan_load(WorkloadConfig(**workload), sampling, engine(vocab_size).as_engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "low", "high", "total"), [("small-engines", 100, 1024, 133_966), ("small-engines-gpt2", 100, 500, 73_767)]
)
def test_the_small_engines_load_is_the_published_one_id_for_id(name: str, low: int, high: int, total: int) -> None:
    random.seed(0)
    prompts = [[random.randint(0, 10_000) for _ in range(random.randint(low, high))] for _ in range(256)]
    outputs = [random.randint(low, high) for _ in range(256)]
    config = load_config(name)
    load = plan_load(config.workload, config.sampling, engine().as_engine)
    assert [request.prompt for request in load] == prompts
    assert [request.params.max_new_tokens for request in load] == outputs
    assert sum(outputs) == total
    assert not config.sampling.stop_on_eos


def test_latency_is_one_request_of_128_and_256_tokens() -> None:
    config = load_config("latency")
    (request,) = plan_load(config.workload, config.sampling, engine().as_engine)
    assert (len(request.prompt), request.params.max_new_tokens) == (128, 256)  # type: ignore[arg-type]
    assert config.engine.max_batch_size == 1


def test_drawn_prompts_stay_inside_a_small_vocabulary() -> None:
    load = planned(vocab_size=11, prompt_length=500, num_requests=2)
    assert {token_id for request in load for token_id in request.prompt} == set(range(11))


def test_a_load_fills_one_batch_unless_told_otherwise() -> None:
    assert len(planned(prompt_length=3)) == 8


def test_equal_seeds_draw_equal_loads_and_different_seeds_different_ones() -> None:
    spec = {"prompt_length": "3..9", "completion_length": "1..9", "num_requests": 6, "request_rate": 2.0}
    assert planned(**spec, seed=4) == planned(**spec, seed=4)
    assert planned(**spec, seed=4) != planned(**spec, seed=5)


def test_another_rate_sends_the_same_prompts() -> None:
    slow = planned(prompt_length="3..9", num_requests=6, request_rate=1.0)
    fast = planned(prompt_length="3..9", num_requests=6, request_rate=10.0)
    assert [request.prompt for request in slow] == [request.prompt for request in fast]
    assert [request.arrival_s for request in slow] == pytest.approx([10 * request.arrival_s for request in fast])


def test_shared_prefixes_are_used_in_rotation() -> None:
    load = planned(prompt_length=4, shared_prefix_length=6, num_prefixes=2, num_requests=5)
    prompts = [list(request.prompt) for request in load]
    assert {len(prompt) for prompt in prompts} == {10}
    assert prompts[0][:6] == prompts[2][:6] == prompts[4][:6] != prompts[1][:6] == prompts[3][:6]
    assert len({tuple(prompt[6:]) for prompt in prompts}) == 5  # type: ignore[arg-type]


def test_conversations_name_the_turn_they_continue() -> None:
    load = planned(prompt_length=4, turns=3, num_requests=2)
    assert [request.continues for request in load] == [None, None, 0, 1, 2, 3]


def test_prompts_of_a_file_can_have_drawn_completion_lengths(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    load = planned(prompts_file=str(tmp_path / "prompts.txt"), completion_length="10..20", num_requests=4)
    assert [request.prompt for request in load] == ["one", "two", "one", "two"]
    assert all(10 <= request.params.max_new_tokens <= 20 for request in load)


def test_json_lines_have_settings_of_their_own(tmp_path: Path) -> None:
    lines = '{"prompt": "one", "max_new_tokens": 3}\n{"prompt_token_ids": [4, 5]}\n'
    (tmp_path / "requests.jsonl").write_text(lines)
    load = planned(prompts_file=str(tmp_path / "requests.jsonl"), num_requests=3)
    assert [request.prompt for request in load] == ["one", [4, 5], "one"]
    assert [request.params.max_new_tokens for request in load] == [3, 5, 3]


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"prompt_length": 3, "prompts": ("a",)}, "--prompt-length draws prompts, but prompts are given too"),
        ({"prompts": ("a",), "turns": 2}, "--turns and --shared-prefix-length need drawn prompts"),
        ({"prompts": ("a",), "shared_prefix_length": 2}, "need drawn prompts"),
        ({"prompt_length": 3, "request_rate": 1.0, "mode": "offline"}, "--request-rate 1.0 needs --mode online"),
        ({"prompt_length": "1-3"}, "invalid --prompt-length '1-3'"),
        ({"prompt_length": 3, "completion_length": "x"}, "invalid --completion-length 'x'"),
        ({"prompt_length": 3, "burst_size": 4}, "--burst-size 4 needs a request rate"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(workload: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(**workload)
