"""Drawing the next token of every request in a batch at once.

Each draw is inverse transform sampling with one uniform number, which is a function of (request seed, position): no
generator's state is shared, so a request's text does not depend on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.kernels.sampling.argmax import argmax
from roseinfer.kernels.sampling.draw_any import draw_any, draws_any
from roseinfer.kernels.sampling.top_k import draw_top_k, draws_top_k
from roseinfer.sampling.penalties import History, LogitChanges
from roseinfer.sampling.uniform import uniform
from roseinfer.upload import upload


@dataclass(frozen=True)
class SamplingBatch:
    """Parameters of the rows to draw; tensors are [rows], on the logits' device."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor
    changes: LogitChanges | None
    all_greedy: bool
    max_top_k: int
    """The largest top_k, or 0 when a row that is not greedy keeps all tokens."""

    @classmethod
    def build(
        cls,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        positions: Sequence[int],
        device: torch.device,
        histories: Sequence[History] = (),
    ) -> "SamplingBatch":
        """Rows in the order of the logits; positions count tokens before the one to draw."""
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
    """Logits [rows, vocab_size] -> token ids [rows], int64. Order: changes, temperature, top-k, top-p, min-p."""
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
    """The same with torch operations, of logits to which the batch's changes have been made."""
    # Rounding to float32 in the middle of a float64 model would make equal runs differ.
    work = logits if logits.dtype == torch.float64 else logits.float()
    vocab_size = logits.shape[-1]
    ranked, token_ids = rank(work, min(batch.max_top_k or vocab_size, vocab_size))
    probabilities = kept_probabilities(ranked, batch)
    edges = probabilities.cumsum(dim=-1)
    thresholds = uniform(batch.seeds, batch.positions).to(edges.dtype).unsqueeze(-1) * edges[:, -1:]
    last_kept = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
    # The first token whose edge lies beyond the threshold: a banned token's edge equals the one before it.
    choice = torch.minimum((edges <= thresholds).sum(dim=-1, keepdim=True), last_kept)
    choice = torch.where(batch.temperature.unsqueeze(-1) > 0, choice, 0)
    return token_ids.gather(-1, choice).squeeze(-1)


def rank(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of each row and their ids, best first, the lower id first among equals: [rows, count] each.

    Ties are common in 16-bit logits, and torch.topk breaks them as it pleases, so 32-bit logits are ranked by a key
    that has none: the logit's bits, made to sort as an integer, above the complement of the id.
    """
    if logits.dtype == torch.float64:
        values, order = logits.sort(dim=-1, descending=True, stable=True)
        return values[:, :count], order[:, :count]
    bits = (logits + 0.0).view(torch.int32).to(torch.int64)  # -0.0 equals 0.0, and becomes it here
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    keys = (ordered << 32) + (0xFFFFFFFF - ids)
    best = keys.topk(count, dim=-1).values
    order = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    return logits.gather(-1, order), order


def kept_probabilities(ranked: Tensor, batch: SamplingBatch) -> Tensor:
    """Ranked logits [rows, count] -> probabilities after temperature, top-k, top-p and min-p; 0 for what is banned."""
    place = torch.arange(ranked.shape[-1], device=ranked.device)
    temperature = torch.where(batch.temperature > 0, batch.temperature, 1.0).to(ranked.dtype).unsqueeze(-1)
    # A row of its own k: the batch's widest row decides how many were ranked.
    top_k = torch.where(batch.top_k > 0, batch.top_k, ranked.shape[-1]).unsqueeze(-1)
    # Relative to the best one: a tiny temperature must not make infinities of several.
    scaled = ((ranked - ranked[:, :1]) / temperature).masked_fill(place >= top_k, float("-inf"))
    probabilities = scaled.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # Strictly before: the token that crosses top_p is kept, and so is the first one whatever top_p is.
    top_p = batch.top_p.to(ranked.dtype).unsqueeze(-1)
    kept = (before < top_p) | (place == 0) | (top_p >= 1)
    kept &= probabilities >= batch.min_p.to(ranked.dtype).unsqueeze(-1) * probabilities[:, :1]
    return torch.where(kept, probabilities, 0)
