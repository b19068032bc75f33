"""Sampling batches for tests of drawing kernels, and the rows whose draw cannot depend on rounding."""

from dataclasses import replace

import torch
from devices import DEVICE, generator
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.sampling.sampler import SamplingBatch, kept_probabilities, rank
from roseinfer.sampling.uniform import uniform

ROUNDING = 1e-5
"""Minimum distance, in probability, between a uniform number and a token's edge for the draw to be certain."""


def batch_of(params: list[SamplingParams], seed: int = 0) -> SamplingBatch:
    rows = len(params)
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator(seed)).tolist()
    return SamplingBatch.build(params, seeds, [row * 7 for row in range(rows)], DEVICE)


def clear(logits: Tensor, batch: SamplingBatch, widest: int) -> Tensor:
    """Return [rows], bool: True if rounding cannot change the draw from the row's `widest` best tokens.

    False if the uniform number is near the edge between two tokens, or top-p or min-p near the edge of keeping a token.
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
