"""Sampling the next token of every request in a batch: temperature, top-k, top-p and min-p.

Each draw is inverse transform sampling with one uniform number, which is a function of (request seed, position). No
generator state is shared, so a request's text does not depend on the other requests of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.kernels.sampling.argmax import argmax
from roseinfer.kernels.sampling.draw_any import draw_any, draws_any
from roseinfer.kernels.sampling.draw_top_k import draw_top_k, draws_top_k
from roseinfer.sampling.penalties import History, LogitChanges
from roseinfer.sampling.uniform import uniform
from roseinfer.upload import upload


@dataclass(frozen=True)
class SamplingBatch:
    """Sampling parameters of a batch. All tensors are [rows], on the device of the logits."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor
    changes: LogitChanges | None
    all_greedy: bool
    """True if every row has temperature 0."""
    max_top_k: int
    """Largest top_k of the rows, or 0 if any row that is not greedy has no top-k limit."""

    @classmethod
    def build(
        cls,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        positions: Sequence[int],
        device: torch.device,
        histories: Sequence[History] = (),
    ) -> "SamplingBatch":
        """Upload the parameters of all rows, in the order of the logits.

        `positions` are the numbers of tokens before the one to draw. `histories` may be empty if no row needs one.
        """
        drawn = [p.top_k for p in params if p.temperature > 0]
        temperature, top_p, min_p, top_k, row_seeds, row_positions = upload(
            device,
            np.array([p.temperature for p in params], dtype=np.float32),
            np.array([p.top_p for p in params], dtype=np.float32),
            np.array([p.min_p for p in params], dtype=np.float32),
            np.array([p.top_k for p in params], dtype=np.int64),
            np.array(seeds, dtype=np.int64),
            np.array(positions, dtype=np.int64),
        )
        return cls(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seeds=row_seeds,
            positions=row_positions,
            changes=LogitChanges.build(params, histories, device) if histories else None,
            all_greedy=not drawn,
            max_top_k=max(drawn) if drawn and min(drawn) > 0 else 0,
        )


def sample(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """Draw token ids [rows], int64, from logits [rows, vocab_size].

    Logits are processed in this order: penalties and bias, temperature, top-k, top-p, min-p.
    """
    if batch.changes is not None:
        logits = batch.changes.apply(logits)
    if batch.all_greedy:
        return argmax(logits)
    drawing = (batch.temperature, batch.top_k, batch.top_p, batch.min_p, batch.seeds, batch.positions)
    if draws_top_k(logits, batch.max_top_k):
        return draw_top_k(logits, *drawing)
    if draws_any(logits):
        return draw_any(logits, *drawing)
    return sample_reference(logits, batch)


def sample_reference(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """Draw token ids as `sample` does, with torch operations. The batch's changes are already applied to the logits."""
    # Rounding to float32 could turn last-bit differences between two runs of a float64 model into different draws.
    work = logits if logits.dtype == torch.float64 else logits.float()
    vocab_size = logits.shape[-1]
    ranked, token_ids = rank(work, min(batch.max_top_k or vocab_size, vocab_size))
    probabilities = kept_probabilities(ranked, batch)
    edges = probabilities.cumsum(dim=-1)
    thresholds = uniform(batch.seeds, batch.positions).to(edges.dtype).unsqueeze(-1) * edges[:, -1:]
    last_kept = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
    # Choose the first token whose edge is above the threshold. A token of probability 0 has the edge of the previous
    # token, and is therefore never chosen.
    choice = torch.minimum((edges <= thresholds).sum(dim=-1, keepdim=True), last_kept)
    choice = torch.where(batch.temperature.unsqueeze(-1) > 0, choice, 0)
    return token_ids.gather(-1, choice).squeeze(-1)


def rank(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest logits of each row and their token ids, [rows, count] each, in falling order.

    Among equal logits the lower id is first. Ties are common in 16-bit logits, and torch.topk breaks them arbitrarily.
    Float32 logits are therefore ranked by a unique 64-bit key: the logit's bits, mapped to a sortable integer, in the
    upper half, and the complement of the id in the lower half.
    """
    if logits.dtype == torch.float64:
        values, order = logits.sort(dim=-1, descending=True, stable=True)
        return values[:, :count], order[:, :count]
    bits = (logits + 0.0).view(torch.int32).to(torch.int64)  # adding 0.0 turns -0.0, which equals 0.0, into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    keys = (ordered << 32) + (0xFFFFFFFF - ids)
    best = keys.topk(count, dim=-1).values
    order = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    return logits.gather(-1, order), order


def kept_probabilities(ranked: Tensor, batch: SamplingBatch) -> Tensor:
    """Return the probabilities of ranked logits [rows, count] after temperature, top-k, top-p and min-p.

    Excluded tokens have probability 0.
    """
    position = torch.arange(ranked.shape[-1], device=ranked.device)
    temperature = torch.where(batch.temperature > 0, batch.temperature, 1.0).to(ranked.dtype).unsqueeze(-1)
    # Each row has its own k. The largest k of the batch decides how many logits were ranked.
    top_k = torch.where(batch.top_k > 0, batch.top_k, ranked.shape[-1]).unsqueeze(-1)
    # Subtract the largest logit first: dividing by a tiny temperature must not make several logits infinite.
    scaled = ((ranked - ranked[:, :1]) / temperature).masked_fill(position >= top_k, float("-inf"))
    probabilities = scaled.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # `before` excludes the token itself, so the token that crosses top_p is kept. The first token is always kept.
    top_p = batch.top_p.to(ranked.dtype).unsqueeze(-1)
    kept = (before < top_p) | (position == 0) | (top_p >= 1)
    kept &= probabilities >= batch.min_p.to(ranked.dtype).unsqueeze(-1) * probabilities[:, :1]
    return torch.where(kept, probabilities, 0)
