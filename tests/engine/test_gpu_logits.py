"""In bfloat16 on a GPU, logits are as near to float32 as transformers' are, and no step waits for the device."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.planner import Chunk, StepPlan
from roseinfer.engine.request import Request
from roseinfer.sampling.sampler import SamplingBatch, sample

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DECODER: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "llama, head_dim 80": {**DECODER, "head_dim": 80},
    "mistral, sliding window": {**DECODER, "sliding_window": 70},
    "qwen2": {**DECODER, "head_dim": 32},
    "qwen3": {**DECODER, "head_dim": 128},
    "gpt2": {
        "vocab_size": 1000,
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 512,
        "initializer_range": 0.08,
    },
}
LENGTHS = (260, 140, 61, 9)
STEPS: tuple[dict[int, int], ...] = (
    {0: 200, 1: 33},
    {0: 1, 1: 100, 2: 60},
    {0: 1, 2: 1, 1: 6, 3: 5},
    {0: 57, 1: 1, 3: 3},
    {0: 1, 3: 1},
)
"""Tokens of each request by its number, step after step, until all have been computed."""


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model's directory, in bfloat16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(MODELS[request.param])
    kind = request.param.partition(",")[0]
    if kind == "qwen2":
        del fields["head_dim"]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields, **ends), dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases that matter
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    folder = tmp_path_factory.mktemp("bfloat16")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def sync_debug_mode() -> Iterator[None]:
    """Whatever a test sets it to, it is no other test's."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def requests_of(engine: Engine) -> list[Request]:
    """Of random tokens, each with blocks for all of them."""
    source = torch.Generator().manual_seed(2)
    requests = []
    for index, length in enumerate(LENGTHS):
        request = Request(
            id=index,
            sample_index=0,
            parent=None,
            prompt_token_ids=torch.randint(1000, (length,), generator=source).tolist(),
            params=SamplingParams(),
            seed=0,
            max_new_tokens=1,
            stop_token_ids=frozenset(),
            submitted_s=0.0,
        )
        request.block_table = engine.pool.allocate(engine.pool.blocks_for(length))
        requests.append(request)
    return requests


def plans_of(requests: Sequence[Request]) -> list[StepPlan]:
    done, plans = [0] * len(requests), []
    for step in STEPS:
        chunks = []
        for index, count in step.items():
            chunks.append(Chunk(requests[index], done[index], count, samples=True, is_decode=count == 1))
            done[index] += count
        plans.append(StepPlan(tuple(chunks), (), ()))
    assert done == [len(request.token_ids) for request in requests]
    return plans


@torch.inference_mode()
def engine_logits(model: Path) -> tuple[list[Request], list[Tensor]]:
    """The requests, and their logits [tokens, vocab_size], from packed, chunked and mixed steps."""
    engine = build_engine(EngineConfig(model=str(model), device=DEVICE, dtype="bfloat16", max_batch_size=4))
    runner, requests = engine.runner, requests_of(engine)
    rows: list[list[Tensor]] = [[] for _ in requests]
    for plan in plans_of(requests):
        token_ids, positions, _, metadata = runner._inputs(plan)
        logits = runner.model.logits(runner.model(token_ids, positions, runner.attention, metadata))
        for chunk, part in zip(plan.chunks, logits.split([chunk.num_tokens for chunk in plan.chunks]), strict=True):
            rows[chunk.request.id].append(part)
    return requests, [torch.cat(parts).float() for parts in rows]


@torch.inference_mode()
def transformers_logits(model: Path, requests: Sequence[Request], dtype: torch.dtype) -> list[Tensor]:
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(DEVICE).eval()
    return [oracle(torch.tensor([request.token_ids], device=DEVICE)).logits[0].float() for request in requests]


def test_logits_are_as_near_to_float32_as_those_of_transformers(saved: Path) -> None:
    requests, ours = engine_logits(saved)
    exact = transformers_logits(saved, requests, torch.float32)
    theirs = transformers_logits(saved, requests, torch.bfloat16)
    for own, other, truth in zip(ours, theirs, exact, strict=True):
        assert truth.std() > 0.1, "a model whose logits say nothing proves nothing"
        error, usual = own - truth, other - truth
        assert error.square().mean().sqrt() < 1.5 * usual.square().mean().sqrt()
        assert error.abs().max() < 2.5 * usual.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_host_waits_for_nothing_from_inputs_to_drawn_tokens(
    saved: Path, sync_debug_mode: None, temperature: float
) -> None:
    engine = build_engine(EngineConfig(model=str(saved), device=DEVICE, dtype="bfloat16", max_batch_size=4))
    runner = engine.runner
    plans = plans_of(requests_of(engine))
    for mode in ("default", "error"):  # the first time kernels are compiled and memory is allocated
        torch.cuda.set_sync_debug_mode(mode)
        for plan in plans:
            runner.cache.copy_blocks([(0, 1)])
            token_ids, positions, last_rows, metadata = runner._inputs(plan)
            logits = runner.model.logits(runner.model(token_ids, positions, runner.attention, metadata)[last_rows])
            count = len(plan.chunks)
            params = [SamplingParams(temperature=temperature, top_p=0.9, logit_bias={3: 1.0})] * count
            sample(logits, SamplingBatch.build(params, [1] * count, [2] * count, runner.device))
