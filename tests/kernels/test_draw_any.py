"""Tests that drawing from a whole vocabulary by radix select agrees with the sampler's torch operations."""

import math
from dataclasses import replace

import pytest
import torch
from devices import DEVICE, DTYPES, generator
from draw_cases import batch_of, clear
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.kernels.runtime import arrivals
from roseinfer.kernels.sampling import draw_any as module
from roseinfer.kernels.sampling.draw_any import draw_any, draws_any
from roseinfer.sampling.sampler import SamplingBatch, sample, sample_reference

PARAMS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=1.0, top_k=100),
    SamplingParams(temperature=3.0, min_p=0.2),
    SamplingParams(temperature=1.3, top_k=200, top_p=0.6, min_p=0.05),
    SamplingParams(temperature=2.0, top_k=7, top_p=0.95),
    SamplingParams(temperature=0.0, top_p=0.3),
    SamplingParams(temperature=1e-38),
]


@pytest.fixture(autouse=True)
def _small_parts(single_threaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small parts and tiles in the interpreter, so that a test takes about a second."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(module, "_PART", 256)
        monkeypatch.setattr(module, "_TILE", 128)


def draw(logits: Tensor, batch: SamplingBatch) -> Tensor:
    return draw_any(logits, batch.temperature, batch.top_k, batch.top_p, batch.min_p, batch.seeds, batch.positions)


def check(logits: Tensor, batch: SamplingBatch) -> None:
    certain = clear(logits, batch, logits.shape[1])
    assert certain.float().mean() > 0.8
    expected = sample_reference(logits, replace(batch, max_top_k=0))
    assert draw(logits, batch)[certain].tolist() == expected[certain].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 256, 600])
def test_draws_are_those_of_the_operations(size: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(len(PARAMS), size + 5, generator=generator(size)) * 3).to(dtype).to(DEVICE)[:, :size]
    check(logits, batch_of(PARAMS, size))
    assert not arrivals(DEVICE).any()


MIXED = [
    SamplingParams(temperature=2.0, top_k=top_k, top_p=top_p, min_p=min_p)
    for top_k in (0, 7, 200)
    for top_p in (0.3, 0.8, 1.0)
    for min_p in (0.0, 0.05)
]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 250), (torch.bfloat16, 300)], ids=str)
def test_top_k_top_p_and_min_p_together(dtype: torch.dtype, size: int) -> None:
    logits = (torch.randn(len(MIXED), size, generator=generator(9)) * 2).to(dtype).to(DEVICE)
    check(logits, batch_of(MIXED, 9))


@pytest.mark.parametrize("top_k", [300, 301, 2**31, 2**32 + 1, 2**63 - 1])
def test_a_top_k_of_all_or_more_keeps_all(top_k: int) -> None:
    logits = torch.randn(2, 300, generator=generator(4)).half().to(DEVICE)
    limited, everything = SamplingParams(temperature=3.0, top_k=top_k), SamplingParams(temperature=3.0)
    batch, same = batch_of([limited] * 2 + [everything] * 2), [0, 1, 0, 1]
    batch = replace(batch, seeds=batch.seeds[same], positions=batch.positions[same])
    drawn = draw(logits[same], batch).tolist()
    assert drawn[:2] == drawn[2:]


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(400),
        torch.arange(400.0),
        -torch.arange(400.0),
        (torch.arange(400) % 7).float(),
        torch.full((400,), -math.inf).index_fill(0, torch.tensor([0, 5, 255, 256, 399]), -2.0),
        torch.tensor([0.0, -0.0] * 200),
    ],
    ids=["equal", "rising", "falling", "few values", "banned", "zeros"],
)
@pytest.mark.parametrize("more", [{}, {"top_p": 0.501}, {"top_k": 77}], ids=str)
def test_the_order_is_that_of_the_operations(logits: Tensor, more: dict[str, float]) -> None:
    """The temperature is so high that all tokens are equally likely: the draw then depends on their order alone.

    float16 has each of these logits, and takes half the passes of float32.
    """
    rows = 4
    params = SamplingParams(temperature=1e38, top_k=int(more.get("top_k", 0)), top_p=more.get("top_p", 1.0))
    check(logits.half().repeat(rows, 1).to(DEVICE), batch_of([params] * rows))


@pytest.mark.parametrize(("top_p", "min_p"), [(0.0, 0.0), (1.0, 1.0), (1e-9, 0.0), (1.0, 0.0), (1 - 2**-24, 0.0)])
def test_at_the_ends_of_top_p_and_min_p(top_p: float, min_p: float) -> None:
    logits = torch.randn(4, 300, generator=generator(1)).half().to(DEVICE)
    batch = batch_of([SamplingParams(temperature=1.0)] * 4)
    batch = replace(batch, top_p=torch.full_like(batch.top_p, top_p), min_p=torch.full_like(batch.min_p, min_p))
    drawn = draw(logits, batch).tolist()
    assert drawn == sample_reference(logits, batch).tolist()
    assert (drawn == logits.argmax(-1).tolist()) == (top_p < 0.5 or min_p == 1)


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_numbers_at_the_ends_draw_the_first_and_the_last_token_that_is_kept(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform numbers can be 1.0, by rounding."""
    if DEVICE.type != "cpu":
        pytest.skip("numbers cannot be replaced in a compiled kernel")
    monkeypatch.setattr(module, "uniform", lambda *_: number)
    logits = torch.randn(3, 600, generator=generator(2)).sort(descending=True).values
    batch = batch_of([SamplingParams(temperature=1.0, **more) for more in ({}, {"top_p": 0.8}, {"top_k": 90})])
    weights = logits.softmax(-1)
    nucleus = int((weights[1].cumsum(0) - weights[1] < 0.8).sum())
    assert draw(logits, batch).tolist() == ([0, 0, 0] if number == 0 else [599, nucleus - 1, 89])

    alike = torch.arange(600) % 7
    ends = [(1.0, 0, 1.0, 599), (1.0, 100, 1.0, 99), (3.0, 77, 1.0, 76), (1e38, 0, 0.5, 299), (1e38, 77, 0.999999, 76)]
    batch = batch_of([SamplingParams(temperature=t, top_k=k, top_p=p) for t, k, p, _ in ends])
    order = alike.sort(descending=True, stable=True).indices
    expected = order[[0 if number == 0 else last for *_, last in ends]]
    assert draw(alike.float().repeat(len(ends), 1), batch).tolist() == expected.tolist()


def test_which_logits_are_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runs_triton", lambda x: x.dtype != torch.float64)
    logits = torch.zeros(2, 9)
    assert draws_any(logits)
    assert not draws_any(logits.double())
    assert not draws_any(torch.zeros(1 << 17, 1))
    assert not draws_any(torch.zeros(1, 1).expand(1, (1 << 20) + 1))


def test_the_sampler_draws_by_the_kernels_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 600, generator=generator(3)).to(DEVICE)
    batch = batch_of(PARAMS[:2])
    expected = sample_reference(logits, batch).tolist()
    calls = []

    def counting(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return draw_any(*arguments)

    monkeypatch.setattr("roseinfer.sampling.sampler.draw_any", counting)
    monkeypatch.setattr(module, "runs_triton", lambda x: x.dtype != torch.float64)
    assert sample(logits, batch).tolist() == expected
    assert len(calls) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES])
@pytest.mark.parametrize(("rows", "size"), [(1, 50257), (64, 151936)])
def test_draws_at_the_sizes_of_models_replay_in_a_graph(rows: int, size: int, dtype: torch.dtype) -> None:
    logits = torch.empty((rows, size), dtype=dtype, device=DEVICE)
    batch = replace(batch_of([PARAMS[row % len(PARAMS)] for row in range(rows)]), max_top_k=0)
    sample(logits.zero_(), batch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = sample(logits, batch)
    for seed in range(5):
        logits.copy_(torch.randn(rows, size, generator=generator(seed)) * 4)
        batch.positions.add_(1)
        graph.replay()
        certain = clear(logits, batch, size)
        assert certain.float().mean() > 0.3 or rows == 1
        assert drawn[certain].tolist() == sample_reference(logits, batch)[certain].tolist()
