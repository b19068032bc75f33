"""Long prompts on a GPU: whole, in chunks, behind cached tokens and as graphs, all close to float32."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.step_batch import BlockTableChange, RowStart, StepBatch

pytestmark = pytest.mark.gpu

LONGEST = 16384


@pytest.fixture(scope="module", params=[None, 1000], ids=["no window", "window"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random model of two layers in bfloat16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mistral",
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=LONGEST + 64,
        initializer_range=0.08,
        sliding_window=request.param,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("long")
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def engine_of(model: Path, dtype: str, **more: object) -> Engine:
    limits = {"max_batch_size": 4, "max_batch_tokens": LONGEST, "max_model_len": LONGEST + 64}
    return build_engine(EngineConfig(**{"model": str(model), "device": "cuda", "dtype": dtype, **limits, **more}))


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    source = torch.Generator().manual_seed(2)
    return [torch.randint(1000, (length,), generator=source).tolist() for length in lengths]


@torch.inference_mode()
def last_logits(engine: Engine, prompts: Sequence[list[int]], chunks: Sequence[Sequence[int]]) -> Tensor:
    """Logits after each prompt, [prompts, vocab_size]. Each step computes one number of tokens per prompt."""
    runner, rows = engine.runner, range(len(prompts))
    starts = [RowStart(row, SamplingParams(), 0, len(prompts[row]), [], []) for row in rows]
    changes = [BlockTableChange(row, engine.pool.allocate(engine.pool.blocks_for(len(prompts[row])))) for row in rows]
    done, found = [0] * len(prompts), {}
    for number, lengths in enumerate(chunks):
        some = [row for row in rows if lengths[row]]
        stops = [done[row] + lengths[row] for row in some]
        batch = StepBatch(
            rows=some,
            starts=[done[row] for row in some],
            lengths=[lengths[row] for row in some],
            samples=[stop == len(prompts[row]) for row, stop in zip(some, stops, strict=True)],
            token_ids=[token for row in some for token in prompts[row][done[row] :][: lengths[row]]],
            row_starts=starts if number == 0 else [],
            block_table_changes=changes if number == 0 else [],
        )
        token_ids, positions, last_rows, metadata = runner._inputs(batch, runner._update_rows(batch))
        hidden = runner.model(token_ids, positions, runner.attention, metadata, last_rows)
        sampling = [row for row, samples in zip(some, batch.samples, strict=True) if samples]
        found |= dict(zip(sampling, runner.model.logits(hidden).float(), strict=True))
        for row in some:
            done[row] += lengths[row]
    return torch.stack([found[row] for row in rows])


@pytest.mark.parametrize(
    "chunks",
    [
        [[4096, 4096, 700, 1]],
        [[LONGEST, 0, 0, 0]],
        [[5000, 1100, 1024, 1024]],
        [[8192, 0, 0, 0], [2048, 2048, 0, 0], [1, 3000, 4097, 0]],
        [[2048, 2048, 2048, 2048], [1, 1, 4096, 900]],
        [[9000, 100, 0, 0], [5001, 4999, 0, 0]],
    ],
    ids=str,
)
def test_long_prompts_in_bfloat16_are_as_near_to_float32_as_by_the_paged_kernel(
    saved: Path, chunks: list[list[int]]
) -> None:
    chunks = [list(step) for step in zip(*(row for row in zip(*chunks, strict=True) if sum(row)), strict=True)]
    prompts = prompts_of([sum(lengths) for lengths in zip(*chunks, strict=True)])
    exact = last_logits(engine_of(saved, "float32"), prompts, [[len(prompt) for prompt in prompts]])
    engine = engine_of(saved, "bfloat16")
    attention = engine.runner.attention
    assert isinstance(attention, TritonAttention)
    ours = last_logits(engine, prompts, chunks)
    attention.dense = False
    paged = last_logits(engine, prompts, chunks)
    for own, other, truth in zip(ours, paged, exact, strict=True):
        assert truth.std() > 0.1, "a model whose logits say nothing proves nothing"
        error, usual = own - truth, other - truth
        assert error.square().mean().sqrt() < 1.3 * usual.square().mean().sqrt()
    torch.testing.assert_close(
        last_logits(engine_of(saved, "float32"), prompts, chunks), exact, rtol=1e-3, atol=1e-3 * exact.std().item()
    )


def test_graphs_of_whole_prompts_draw_the_same_tokens(saved: Path) -> None:
    prompts = prompts_of([600, 1000, 1023, 2047, 3100, 4096])
    params = SamplingParams(max_new_tokens=3, stop_on_eos=False)
    for dtype in ("float32", "bfloat16"):
        plain = engine_of(saved, dtype, cuda_graphs=False, prefix_cache=False)
        expected = [plain.generate([prompt], params)[0].token_ids for prompt in prompts]
        engine = engine_of(saved, dtype, prefix_cache=False)
        assert engine.runner.graphs is not None
        for _ in range(2):
            found = [engine.generate([prompt], params)[0].token_ids for prompt in prompts]
            same = sum(a == b for a, b in zip(found, expected, strict=True))
            assert same == len(prompts) if dtype == "float32" else same >= len(prompts) - 1  # a tie may round apart
            engine.runner.capture_missing()
        assert sum(key.whole for key in engine.runner.graphs.captured) >= 5
