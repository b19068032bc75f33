"""Sampling draws the right tokens with the right frequencies, independent of the batch.

The reference is the definition of the sampling parameters, in NumPy.
"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.sampling.penalties import History
from roseinfer.sampling.sampler import SamplingBatch, rank, sample

CPU = torch.device("cpu")
DRAWS = 4000

LOGITS = [1.0, 3.0, 2.5, -1.0, 3.0, 0.0, 2.0, -4.0]

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cool": {"temperature": 0.4},
    "hot": {"temperature": 5.0},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.6},
    "top-p after top-k": {"top_k": 4, "top_p": 0.8},
    "top-p after temperature": {"temperature": 2.0, "top_p": 0.7},
    "min-p": {"min_p": 0.3},
    "all of them": {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.1},
}


def reference(logits: NDArray[np.float64], params: SamplingParams) -> NDArray[np.float64]:
    """Return the distribution that the parameters define, token by token. Among equals the lower id is first."""
    order = sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))
    weights = np.exp((logits - logits.max()) / params.temperature)
    kept = order[: params.top_k or len(order)]
    total = sum(weights[token_id] for token_id in kept)
    nucleus: list[int] = []
    reached = 0.0
    for token_id in kept:
        if nucleus and reached >= params.top_p:
            break
        nucleus.append(token_id)
        reached += weights[token_id] / total
    kept = [token_id for token_id in nucleus if weights[token_id] >= params.min_p * weights[order[0]]]
    probabilities = np.zeros(len(logits))
    probabilities[kept] = weights[kept] / weights[kept].sum()
    return probabilities


def draw(logits: Tensor, params: SamplingParams | list[SamplingParams], seeds: list[int] | None = None) -> list[int]:
    """Draw one token per row of logits [rows, vocab_size]. The default seed of row i is i."""
    rows = len(logits)
    batch = SamplingBatch.build(
        params if isinstance(params, list) else [params] * rows, seeds or list(range(rows)), [5] * rows, CPU
    )
    drawn: list[int] = sample(logits, batch).tolist()
    return drawn


def params_of(**values: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, **values})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_frequencies_are_those_of_the_definition(case: str, dtype: torch.dtype) -> None:
    params = params_of(**CASES[case])
    expected = reference(np.array(LOGITS), params)
    counts = Counter(draw(torch.tensor(LOGITS, dtype=dtype).repeat(DRAWS, 1), params))
    assert set(counts) <= set(np.flatnonzero(expected)), "an excluded token was drawn"
    likely = [token_id for token_id in range(len(LOGITS)) if DRAWS * expected[token_id] >= 5]
    chi_square = sum((counts[t] - DRAWS * expected[t]) ** 2 / (DRAWS * expected[t]) for t in likely)
    # A chi-square with k degrees of freedom has mean k and variance 2k. The limit is five standard deviations above the
    # mean; the seeds are fixed, so the test never fails by chance.
    degrees = max(len(likely) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda number: number / 4), min_size=1, max_size=12),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.integers(0, 15),
    top_p=st.floats(0.01, 1.0),
)
@settings(max_examples=150, deadline=None)
def test_only_tokens_that_the_definition_keeps_are_drawn(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    params = params_of(temperature=temperature, top_k=top_k, top_p=top_p)
    # Rounding decides whether a token is kept if top_p nearly equals a cumulative probability: accept both outcomes.
    near = [
        reference(np.array(logits), params_of(temperature=temperature, top_k=top_k, top_p=min(p, 1.0)))
        for p in (top_p * (1 - 1e-6), top_p * (1 + 1e-6))
    ]
    support = {token_id for probabilities in near for token_id in np.flatnonzero(probabilities)}
    drawn = set(draw(torch.tensor(logits, dtype=torch.float64).repeat(200, 1), params))
    assert drawn <= support


def test_the_token_that_crosses_top_p_is_kept() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert set(draw(logits.repeat(500, 1), params_of(top_p=0.4))) == {0}
    assert set(draw(logits.repeat(500, 1), params_of(top_p=0.6))) == {0, 1}
    assert set(draw(logits.repeat(500, 1), params_of(top_p=0.81))) == {0, 1, 2}


@pytest.mark.parametrize("narrow", [{"top_p": 1e-9}, {"top_k": 1}, {"min_p": 1.0}, {"temperature": 1e-38}])
def test_at_least_one_token_is_always_left(narrow: dict[str, float]) -> None:
    logits = torch.tensor([[10.0, 30.0, 20.0]]).repeat(100, 1)
    assert set(draw(logits, params_of(**narrow))) == {1}


@pytest.mark.parametrize("top_k", [8, 9, 1000, 2**40])
def test_top_k_above_the_vocabulary_keeps_everything(top_k: int) -> None:
    logits = torch.tensor(LOGITS).repeat(300, 1)
    assert draw(logits, params_of(top_k=top_k)) == draw(logits, params_of())


def test_a_banned_token_is_never_drawn_however_hot() -> None:
    logits = torch.zeros(2000, 4)
    batch = SamplingBatch.build(
        [params_of(temperature=1e6)] * 2000,
        list(range(2000)),
        [0] * 2000,
        CPU,
        [History(frozenset(), Counter(), frozenset({1, 3}))] * 2000,
    )
    assert set(sample(logits, batch).tolist()) == {0, 2}


def test_a_token_with_logit_minus_infinity_is_never_drawn() -> None:
    logits = torch.tensor([0.0, float("-inf"), 0.0]).repeat(1000, 1)
    assert set(draw(logits, params_of())) == {0, 2}


def test_temperature_0_takes_the_best_token_alone_and_in_a_batch_with_sampling_rows() -> None:
    logits = torch.tensor(LOGITS).repeat(3, 1)
    greedy = SamplingParams(top_k=5, top_p=0.1)
    assert draw(logits, greedy) == [1, 1, 1]
    assert draw(logits, [greedy, params_of(), greedy])[::2] == [1, 1]


@given(
    rows=st.lists(st.lists(st.integers(-3, 3), min_size=40, max_size=40), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_row_draws_the_same_in_any_batch_though_its_logits_have_ties(rows: list[list[int]], data: Any) -> None:
    logits = torch.tensor(rows, dtype=torch.bfloat16) / 4
    params = [
        params_of(temperature=data.draw(st.sampled_from([0.0, 1.0])), top_k=data.draw(st.sampled_from([0, 1, 7, 30])))
        for _ in rows
    ]
    seeds = [data.draw(st.integers(0, 2**63 - 1)) for _ in rows]
    together = draw(logits, params, seeds)
    for row in range(len(rows)):
        assert draw(logits[row : row + 1], params[row : row + 1], seeds[row : row + 1]) == [together[row]]


@given(
    logits=st.lists(st.integers(-2, 2), min_size=1, max_size=30),
    count=st.integers(1, 30),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100, deadline=None)
def test_ranking_puts_the_lower_id_first_among_equals(logits: list[int], count: int, dtype: torch.dtype) -> None:
    # Include negative zeros, which equal positive zeros.
    values = torch.tensor([logits], dtype=dtype) * torch.tensor([-1.0, 1.0]).repeat(15)[: len(logits)]
    ranked, ids = rank(values, min(count, len(logits)))
    expected = sorted(range(len(logits)), key=lambda token_id: (-values[0, token_id].item(), token_id))
    assert ids[0].tolist() == expected[: min(count, len(logits))]
    assert ranked[0].tolist() == [values[0, token_id].item() for token_id in ids[0].tolist()]
    greedy = SamplingParams()
    assert draw(values, greedy) == expected[:1]
    assert draw(values.repeat(2, 1), [greedy, params_of()])[:1] == expected[:1]
