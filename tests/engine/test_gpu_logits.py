"""Logits on a GPU: in bfloat16 as close to float32 as those of transformers, computed without host synchronization."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.step_batch import BlockTableChange, RowStart, StepBatch
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
"""Number of tokens that each step computes per request. Together the steps compute all tokens."""


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random model in bfloat16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(MODELS[request.param])
    kind = request.param.partition(",")[0]
    if kind == "qwen2":
        del fields["head_dim"]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields, **ends), dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases that are not trivial
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    folder = tmp_path_factory.mktemp("bfloat16")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def sync_debug_mode() -> Iterator[None]:
    """Reset the mode after the test."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def sequences() -> list[list[int]]:
    """Random token ids of four requests."""
    source = torch.Generator().manual_seed(2)
    return [torch.randint(1000, (length,), generator=source).tolist() for length in LENGTHS]


def batches_of(engine: Engine, requests: Sequence[Sequence[int]]) -> list[StepBatch]:
    """The steps of `STEPS`. The first one starts all rows, with blocks for all of their tokens."""
    starts = [RowStart(row, SamplingParams(), 0, len(token_ids), [], []) for row, token_ids in enumerate(requests)]
    changes = [
        BlockTableChange(row, engine.pool.allocate(engine.pool.blocks_for(len(token_ids))))
        for row, token_ids in enumerate(requests)
    ]
    done, batches = [0] * len(requests), []
    for number, step in enumerate(STEPS):
        batches.append(
            StepBatch(
                rows=list(step),
                starts=[done[row] for row in step],
                lengths=list(step.values()),
                samples=[True] * len(step),
                token_ids=[token for row, count in step.items() for token in requests[row][done[row] :][:count]],
                row_starts=starts if number == 0 else [],
                block_table_changes=changes if number == 0 else [],
            )
        )
        for row, count in step.items():
            done[row] += count
    assert done == [len(token_ids) for token_ids in requests]
    return batches


@torch.inference_mode()
def engine_logits(model: Path) -> list[Tensor]:
    """Logits [tokens, vocab_size] of each request, from packed, chunked and mixed steps."""
    engine = build_engine(EngineConfig(model=str(model), device=DEVICE, dtype="bfloat16", max_batch_size=4))
    runner, requests = engine.runner, sequences()
    rows: list[list[Tensor]] = [[] for _ in requests]
    for batch in batches_of(engine, requests):
        token_ids, positions, _, metadata = runner._inputs(batch, runner._update_rows(batch))
        logits = runner.model.logits(runner.model(token_ids, positions, runner.attention, metadata))
        for row, part in zip(batch.rows, logits.split(batch.lengths), strict=True):
            rows[row].append(part)
    return [torch.cat(parts).float() for parts in rows]


@torch.inference_mode()
def transformers_logits(model: Path, dtype: torch.dtype) -> list[Tensor]:
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(DEVICE).eval()
    return [oracle(torch.tensor([token_ids], device=DEVICE)).logits[0].float() for token_ids in sequences()]


def test_logits_are_as_near_to_float32_as_those_of_transformers(saved: Path) -> None:
    ours = engine_logits(saved)
    exact = transformers_logits(saved, torch.float32)
    theirs = transformers_logits(saved, torch.bfloat16)
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
    batches = batches_of(engine, sequences())
    for mode in ("default", "error"):  # the first time kernels are compiled and memory is allocated
        torch.cuda.set_sync_debug_mode(mode)
        for batch in batches:
            runner.cache.copy_blocks([(0, 1)])
            states = runner._update_rows(batch)
            token_ids, positions, last_rows, metadata = runner._inputs(batch, states)
            logits = runner.model.logits(runner.model(token_ids, positions, runner.attention, metadata)[last_rows])
            count = len(batch.rows)
            params = [SamplingParams(temperature=temperature, top_p=0.9, logit_bias={3: 1.0})] * count
            sample(logits, SamplingBatch.build(params, [1] * count, [2] * count, runner.device))
