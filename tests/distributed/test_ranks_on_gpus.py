"""Ranks on two GPUs draw the same tokens as each other, and as one GPU in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.engine.leading_runner import LeadingRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

PROMPTS = [[3], list(range(3, 40)), list(range(5, 60)), [7, 8]]
PARAMS = [
    SamplingParams(max_new_tokens=24, stop_on_eos=False, temperature=temperature, seed=seed)
    for seed, temperature in enumerate((0.0, 0.8, 0.0, 0.8))
]


def settings(**changes: Any) -> EngineConfig:
    return EngineConfig(
        device="cuda", max_batch_size=4, max_batch_tokens=16, max_model_len=128, kv_cache_memory="64MiB", **changes
    )


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_both_ranks_draw_the_same_by_their_own_kernels(cuda_graphs: bool) -> None:
    engine = build_engine(settings(model="qwen3-0.6b", load_format="dummy", tensor_parallel=2, cuda_graphs=cuda_graphs))
    try:
        runner = engine.runner
        assert isinstance(runner, LeadingRunner)
        assert runner.model.ranks is not None
        assert runner.model.ranks.uses_peer_memory == torch.cuda.can_device_access_peer(0, 1)
        outputs = engine.generate(PROMPTS, PARAMS)
        assert [len(output.token_ids) for output in outputs] == [24] * 4
        assert runner.drew_the_same()
    finally:
        engine.close()


def test_two_gpus_draw_what_one_draws(tiny_llama: Path) -> None:
    found = []
    for ranks in (1, 2):
        engine = build_engine(settings(model=str(tiny_llama), dtype="float64", tensor_parallel=ranks))
        found.append([output.token_ids for output in engine.generate([[3], list(range(3, 40))], PARAMS[:2])])
        engine.close()
    assert found[0] == found[1]
