"""Rows to draw from, and which of their draws are certain."""

from dataclasses import replace

import torch
from devices import DEVICE, generator
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.sampling.sampler import SamplingBatch, kept_probabilities, rank
from roseinfer.sampling.uniform import uniform

ROUNDING = 1e-5
"""Of a sum of probabilities: how far from an edge a uniform number must be for both ways to see it on one side."""


def batch_of(params: list[SamplingParams], seed: int = 0) -> SamplingBatch:
    rows = len(params)
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator(seed)).tolist()
    return SamplingBatch.build(params, seeds, [row * 7 for row in range(rows)], DEVICE)


def clear(logits: Tensor, batch: SamplingBatch, widest: int) -> Tensor:
    """Which rows' draws among their `widest` best no rounding can turn: [rows].

    The others lie beside an edge, of top-p, min-p or a token.
    """
    ranked, _ = rank(logits.double(), min(widest, logits.shape[1]))
    everything = kept_probabilities(ranked, replace(batch, top_p=batch.top_p * 0 + 1, min_p=batch.min_p * 0))
    kept = kept_probabilities(ranked, batch)
    edges = kept.cumsum(-1)
    threshold = uniform(batch.seeds, batch.positions)[:, None] * edges[:, -1:]
    nucleus = (everything.cumsum(-1) - everything - batch.top_p[:, None]).abs()
    floor = (everything / everything[:, :1] - batch.min_p[:, None]).abs()
    near = (edges - threshold).abs().amin(-1) < ROUNDING
    near |= (nucleus.amin(-1) < ROUNDING) & (batch.top_p < 1)
    near |= (floor.amin(-1) < ROUNDING) & (batch.min_p > 0)
    return ~near | (batch.temperature == 0)
