"""Bytes and FLOPs of a step, against counts by hand, torch's FLOP counter, and the number of parameters."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scripted import TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.costs.step import plan_cost, step_cost
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Chunk, StepPlan
from roseinfer.models.expert_use import ExpertUse
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.footprint import WeightBytes

# The tiny models of tests/tiny.py: hidden 32, 2 layers, 4 heads of 8, vocabulary 258.
LLAMA_LAYER_MATRICES = 32 * (4 + 2 + 2) * 8 + 32 * 32 + 3 * 32 * 48  # q, k, v of 4 + 2 + 2 heads; o; gate, up, down
LLAMA_WEIGHTS = 2 * (LLAMA_LAYER_MATRICES + 2 * 32) + 32  # two norms a layer, and the last one
GPT2_LAYER_MATRICES = 32 * 3 * 32 + 32 * 32 + 2 * 32 * 128
GPT2_WEIGHTS = 2 * (GPT2_LAYER_MATRICES + 96 + 32 + 128 + 32 + 4 * 32) + 2 * 32  # biases; norms of weight and bias
HEAD = 258 * 32
LLAMA_SAMPLED_ONLY = LLAMA_LAYER_MATRICES - 32 * 2 * 2 * 8
"""Elements of the last layer's matrices that multiply sampled tokens only: all but those of keys and values."""


@pytest.fixture
def llama(tiny_llama: Path) -> Engine:
    """Engine of a model with grouped queries and an untied head."""
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", block_size=1))


@pytest.fixture
def gpt2(tiny_gpt2: Path) -> Engine:
    """Engine of a model with a key head per query head, learned positions and a tied head."""
    return build_engine(EngineConfig(model=str(tiny_gpt2), dtype="float32", block_size=1))


def test_a_decode_step_of_grouped_queries_by_hand(llama: Engine) -> None:
    # Three requests of 10, 20 and 30 tokens, including the new one, in a dtype of two bytes.
    cost = step_cost(llama.model_config, 2, tokens=3, context_tokens=60, sampled=3)
    kv = 2 * 2 * 2 * 8  # keys and values, 2 layers, 2 heads of 8
    assert cost.bytes == 2 * (LLAMA_WEIGHTS + HEAD + 3 * 32 + (3 + 60) * kv + 2 * 3 * 258)
    assert cost.flops == 2 * 3 * (2 * LLAMA_LAYER_MATRICES + HEAD) + 4 * 60 * 2 * 4 * 8


def test_a_decode_step_of_as_many_key_heads_by_hand(gpt2: Engine) -> None:
    cost = step_cost(gpt2.model_config, 4, tokens=3, context_tokens=60, sampled=3)
    kv = 2 * 2 * 4 * 8
    # Token and position rows are looked up; the embedding table is read again as the head.
    assert cost.bytes == 4 * (GPT2_WEIGHTS + HEAD + 3 * (32 + 32) + (3 + 60) * kv + 2 * 3 * 258)
    assert cost.flops == 2 * 3 * (2 * GPT2_LAYER_MATRICES + HEAD) + 4 * 60 * 2 * 4 * 8


def test_a_prefill_counts_causal_pairs_and_one_row_of_logits(llama: Engine) -> None:
    plan = plan_of((0, 10, True))
    expected = step_cost(llama.model_config, 4, tokens=10, context_tokens=10, attention_pairs=55, sampled=1)
    assert plan_cost(llama.model_config, 4, plan) == expected
    matrices = 10 * (2 * LLAMA_LAYER_MATRICES - LLAMA_SAMPLED_ONLY) + LLAMA_SAMPLED_ONLY + HEAD
    assert expected.flops == 2 * matrices + 4 * (55 + 10) * 4 * 8


def test_a_chunk_that_samples_nothing_does_not_read_the_head(llama: Engine) -> None:
    with_head = plan_cost(llama.model_config, 4, plan_of((0, 10, True)))
    without = plan_cost(llama.model_config, 4, plan_of((0, 10, False)))
    assert with_head.bytes - without.bytes == 4 * (HEAD + 2 * 258 + 10 * 2 * 2 * 8)
    assert with_head.flops - without.flops == 2 * (HEAD + LLAMA_SAMPLED_ONLY) + 4 * 10 * 4 * 8


def test_prefill_in_chunks_does_the_work_of_a_whole_one_but_reads_more(llama: Engine) -> None:
    whole = plan_cost(llama.model_config, 4, plan_of((0, 30, True)))
    chunks = [plan_cost(llama.model_config, 4, plan_of(chunk)) for chunk in ((0, 12, False), (12, 18, True))]
    assert sum(chunk.flops for chunk in chunks) == whole.flops
    layer_kv = 4 * 2 * 2 * 8
    assert sum(chunk.bytes for chunk in chunks) == whole.bytes + 4 * LLAMA_WEIGHTS + 12 * layer_kv


@pytest.mark.parametrize(("start", "tokens"), [(0, 3), (0, 5), (0, 9), (2, 6), (4, 1), (20, 1), (20, 7)])
def test_a_sliding_window_bounds_keys_and_pairs(llama: Engine, start: int, tokens: int) -> None:
    window = 5
    model = msgspec.structs.replace(llama.model_config, sliding_window=window)
    seen = [range(max(at - window + 1, 0), at + 1) for at in range(start, start + tokens)]
    expected = step_cost(
        model,
        4,
        tokens=tokens,
        context_tokens=len({key for keys in seen for key in keys}),
        attention_pairs=sum(map(len, seen)),
        sampled_context=len(seen[-1]),
        sampled=1,
    )
    assert plan_cost(model, 4, plan_of((start, tokens, True))) == expected


def test_each_layer_counts_its_own_window(llama: Engine) -> None:
    uniform = [msgspec.structs.replace(llama.model_config, sliding_window=window) for window in (None, 5)]
    full, narrow = (model.attention_specs[0] for model in uniform)
    mixed = [msgspec.structs.replace(llama.model_config, layer_attention=s) for s in ((full, narrow), (narrow, full))]
    plan = plan_of((2, 9, True), (20, 1, True))
    of_each, of_both = ([plan_cost(model, 4, plan) for model in models] for models in (uniform, mixed))
    assert of_both[0] + of_both[1] == of_each[0] + of_each[1]
    assert of_both[0].flops > of_both[1].flops, "the last layer's window matters for sampled tokens only"


def test_several_decode_steps_in_one_launch_read_the_weights_as_often(llama: Engine) -> None:
    model = llama.model_config
    steps = [step_cost(model, 2, tokens=4, context_tokens=40 + 4 * step, sampled=4) for step in range(3)]
    launch = step_cost(model, 2, tokens=12, context_tokens=40 + 44 + 48, sampled=12, passes=3)
    assert launch == steps[0] + steps[1] + steps[2]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_flops_agree_with_torchs_counter(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    scheduler = engine.scheduler("offline")
    for _ in range(3):
        scheduler.submit([7] * 9, SamplingParams(max_new_tokens=4, stop_on_eos=False))
    for phase in ("prefill", "decode"):
        # The counter sees the matrix products of the math backend only.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            scheduler.step()
        plan = scheduler.last_plan
        assert plan is not None
        assert plan.phase == phase
        counted = counter.get_total_flops()
        # The counter counts every (query, key) pair of a chunk, without the causal mask.
        rectangle = sum(chunk.num_tokens * chunk.stop for chunk in plan.chunks)
        expected = step_cost(
            engine.model_config,
            4,
            tokens=plan.num_tokens,
            context_tokens=plan.num_context_tokens,
            attention_pairs=rectangle,
            sampled=3,
        )
        # In the last layer, this backend also projects and attends from tokens that nothing is sampled after.
        model = engine.model_config
        heads = model.num_heads * model.head_dim
        needless = 2 * (plan.num_tokens - 3) * heads * model.hidden_size
        needless += 4 * (rectangle - plan.num_context_tokens) * heads
        assert counted == expected.flops + needless


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_step_reads_every_weight_but_the_tables_it_looks_up(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    tables = 258 * 32 if name == "llama" else 128 * 32  # GPT-2's tied embedding is read as the head
    cost = step_cost(engine.model_config, 4, tokens=0, context_tokens=0, sampled=1)
    assert cost.bytes == 4 * (engine.num_parameters - tables + 2 * 258)


def test_weights_count_in_their_stored_size() -> None:
    weights = WeightBytes(layers=1000, head=100, lookup=10)
    plain = step_cost(TINY, 2, tokens=3, context_tokens=5, sampled=2, passes=4)
    kept = step_cost(TINY, 2, tokens=3, context_tokens=5, sampled=2, passes=4, weights=weights)
    states = (3 + 5) * TINY.kv_bytes_per_token(2) + 2 * 2 * TINY.vocab_size * 2
    assert kept.bytes == 4 * (1000 + 100) + 3 * 10 + states
    assert kept.flops == plain.flops


def test_a_step_reads_the_experts_that_its_tokens_use_and_multiplies_by_them(llama: Engine) -> None:
    dense = llama.model_config
    spec = ExpertsSpec(num_experts=8, top_k=2, intermediate_size=6, shared_size=10, dense_layers=(0,))
    model = msgspec.structs.replace(dense, experts=spec)
    expert = 3 * 32 * 6
    others = 32 * 8 + 3 * 32 * 10 - 3 * 32 * 48  # router and shared expert of the second layer, without its MLP
    for tokens, hits in ((1, 2.0), (2, 3.5), (500, 8.0)):
        cost, without = (step_cost(each, 1, tokens=tokens, context_tokens=9, sampled=tokens) for each in (model, dense))
        assert cost.bytes - without.bytes == others + hits * expert
        assert cost.flops - without.flops == 2 * tokens * (others + 2 * expert)
    assert model.idle_parameters == 6 * expert
    step = step_cost(model, 1, tokens=2, context_tokens=18, sampled=2)
    assert step_cost(model, 1, tokens=6, context_tokens=54, sampled=6, passes=3) == step + step + step
    # Of 10 tokens, all chose the first expert, and half chose the second, the other half the third.
    use, plan = ExpertUse(), plan_of((8, 1, True), (8, 1, True))
    equal = plan_cost(model, 1, plan, expert_use=use).bytes
    use.learn(np.array([[10, 5, 5, 0, 0, 0, 0, 0]]), 10)
    assert equal - plan_cost(model, 1, plan, expert_use=use).bytes == (3.5 - (1 + 0.75 + 0.75)) * expert


def plan_of(*chunks: tuple[int, int, bool]) -> StepPlan:
    """Return a plan of chunks, each given as (start, tokens, samples)."""
    planned = (Chunk(_request(start + n), start, n, samples, is_decode=n == 1) for start, n, samples in chunks)
    return StepPlan(tuple(planned), (), ())


@pytest.mark.parametrize("steps", [2, 5])
def test_a_launch_of_several_decode_steps_costs_as_much_as_the_steps(llama: Engine, steps: int) -> None:
    starts = (3, 17)
    one_by_one = [plan_of(*((start + index, 1, True) for start in starts)) for index in range(steps)]
    single = [plan_cost(llama.model_config, 4, plan) for plan in one_by_one]
    chunks = tuple(Chunk(_request(start + steps), start, steps, True, is_decode=True) for start in starts)
    together = plan_cost(llama.model_config, 4, StepPlan(chunks, (), (), decode_steps=steps))
    assert (together.bytes, together.flops) == (sum(c.bytes for c in single), sum(c.flops for c in single))


def _request(length: int) -> Request:
    return Request(0, 0, None, [1] * length, SamplingParams(), 0, 1, frozenset(), 0.0)
