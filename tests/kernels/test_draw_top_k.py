"""Tests that drawing from each row's top k in one kernel agrees with the sampler's torch operations."""

import math
from dataclasses import replace

import pytest
import torch
from devices import DEVICE, DTYPES, generator
from draw_cases import batch_of, clear
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.kernels.runtime import arrivals
from roseinfer.kernels.sampling import draw_top_k as module
from roseinfer.kernels.sampling.draw_top_k import MAX_TOP_K, draw_top_k, draws_top_k
from roseinfer.sampling.sampler import SamplingBatch, sample, sample_reference

PARAMS = [
    SamplingParams(temperature=0.7, top_k=40, top_p=0.9),
    SamplingParams(temperature=1.0, top_k=MAX_TOP_K),
    SamplingParams(temperature=3.0, top_k=17, min_p=0.2),
    SamplingParams(temperature=1.3, top_k=MAX_TOP_K, top_p=0.6, min_p=0.05),
    SamplingParams(temperature=0.0, top_k=0, top_p=0.3),
    SamplingParams(temperature=1.0, top_k=1),
    SamplingParams(temperature=1e-38, top_k=8),
]


@pytest.fixture(autouse=True)
def _small_parts(single_threaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, use parts of 512 logits and tiles of 128, so that a test takes about a second."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(module, "_GROUPS", 128)
        monkeypatch.setattr(module, "_DEPTH", 4)
        monkeypatch.setattr(module, "_TILE", 128)


def draw(logits: Tensor, batch: SamplingBatch) -> Tensor:
    return draw_top_k(logits, batch.temperature, batch.top_k, batch.top_p, batch.min_p, batch.seeds, batch.positions)


def reference(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """Return the draws of the torch sampler, which ranks as many tokens as any row of these tests needs."""
    return sample_reference(logits, replace(batch, max_top_k=min(MAX_TOP_K, logits.shape[1])))


def check(logits: Tensor, batch: SamplingBatch) -> None:
    certain = clear(logits, batch, MAX_TOP_K)
    assert certain.float().mean() > 0.9
    assert draw(logits, batch)[certain].tolist() == reference(logits, batch)[certain].tolist()


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, torch.float32), (3, torch.float16), (511, torch.float16), (600, torch.float32)]
)
def test_draws_are_those_of_the_operations(size: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(len(PARAMS), size + 5, generator=generator(size)) * 3).to(dtype).to(DEVICE)[:, :size]
    check(logits, batch_of(PARAMS, size))
    assert not arrivals(DEVICE).any()


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(700),
        torch.arange(700.0),
        -torch.arange(700.0),
        # The largest logits are in half the groups of each part, so the maximum number of candidates remains.
        (torch.arange(700) % 128 < 64) * 5.0 + torch.arange(700) % 7,
        torch.full((700,), -math.inf).index_fill(0, torch.tensor([0, 5, 511, 512, 699]), -2.0),
        torch.tensor([0.0, -0.0] * 350),
        torch.full((40,), -1e30),
    ],
    ids=["equal", "rising", "falling", "crowded", "banned", "zeros", "few"],
)
def test_the_ranking_is_that_of_the_operations(logits: Tensor) -> None:
    """The temperature is so high that the top k are equally likely: the draw then depends on their ranking alone."""
    rows = 3
    batch = batch_of([SamplingParams(temperature=1e38, top_k=MAX_TOP_K)] * rows)
    check(logits.repeat(rows, 1).to(DEVICE), batch)


@pytest.mark.parametrize(("top_p", "min_p"), [(0.0, 0.0), (1.0, 1.0), (1e-9, 0.0), (1.0, 0.0)])
def test_at_the_ends_of_top_p_and_min_p(top_p: float, min_p: float) -> None:
    logits = torch.randn(4, 600, generator=generator(1)).to(DEVICE)
    batch = batch_of([SamplingParams(temperature=1.0, top_k=50)] * 4)
    batch = replace(batch, top_p=torch.full_like(batch.top_p, top_p), min_p=torch.full_like(batch.min_p, min_p))
    drawn = draw(logits, batch).tolist()
    assert drawn == reference(logits, batch).tolist()
    assert (drawn == logits.argmax(-1).tolist()) == (top_p < 1 or min_p == 1)


def test_which_logits_are_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runs_triton", lambda x: x.dtype != torch.float64)
    logits = torch.zeros(2, 9)
    assert draws_top_k(logits, 1)
    assert draws_top_k(logits, MAX_TOP_K)
    assert not draws_top_k(logits, 0)
    assert not draws_top_k(logits, MAX_TOP_K + 1)
    assert not draws_top_k(logits.double(), 5)
    assert not draws_top_k(torch.zeros(40_000, 1), 5)


def test_the_sampler_draws_by_the_kernel_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 600, generator=generator(3)).to(DEVICE)
    batch = batch_of(PARAMS[:2])
    expected = reference(logits, batch).tolist()
    calls = []

    def counting(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return draw_top_k(*arguments)

    monkeypatch.setattr("roseinfer.sampling.sampler.draw_top_k", counting)
    monkeypatch.setattr(module, "runs_triton", lambda x: x.dtype != torch.float64)
    assert sample(logits, batch).tolist() == expected
    assert len(calls) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES])
@pytest.mark.parametrize(("rows", "size"), [(1, 50257), (16, 50257), (64, 151936)])
def test_draws_at_the_sizes_of_models_replay_in_a_graph(rows: int, size: int, dtype: torch.dtype) -> None:
    logits = torch.empty((rows, size), dtype=dtype, device=DEVICE)
    batch = replace(batch_of([PARAMS[row % len(PARAMS)] for row in range(rows)]), max_top_k=MAX_TOP_K)
    sample(logits.zero_(), batch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = sample(logits, batch)
    for seed in range(20):
        logits.copy_(torch.randn(rows, size, generator=generator(seed)) * 2)
        batch.positions.add_(1)
        graph.replay()
        certain = clear(logits, batch, MAX_TOP_K)
        assert certain.float().mean() > 0.9 or rows == 1
        assert drawn[certain].tolist() == reference(logits, batch)[certain].tolist()
