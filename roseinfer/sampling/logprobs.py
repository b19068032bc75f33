"""Log-probabilities of drawn tokens, under the logits that the model gave, before any change to them."""

import torch
from torch import Tensor

RowLogprobs = tuple[float, list[tuple[int, float]]]
"""The drawn token's log-probability, and (token id, log-probability) of the likeliest ones, the likeliest first."""


def logprobs(logits: Tensor, drawn: Tensor, counts: list[int | None]) -> list[RowLogprobs | None]:
    """For each row of logits [rows, vocab_size] that asks, by a count of alternatives, with the drawn ids [rows]."""
    rows = [row for row, count in enumerate(counts) if count is not None]
    if not rows:
        return [None] * len(counts)
    asked = torch.tensor(rows, device=logits.device)
    values = logits[asked].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    most = min(max(count or 0 for count in counts), values.shape[-1])
    best = values.topk(most, dim=-1)
    chosen = values.gather(-1, drawn[asked].unsqueeze(-1)).squeeze(-1).tolist()
    found: list[RowLogprobs | None] = [None] * len(counts)
    for row, own, ids, tops in zip(rows, chosen, best.indices.tolist(), best.values.tolist(), strict=True):
        pairs = list(zip(ids, tops, strict=True))
        found[row] = (own, pairs[: counts[row]])
    return found
