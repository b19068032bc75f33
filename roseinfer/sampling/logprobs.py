"""Log-probabilities of drawn tokens and of alternatives, computed from the model's unchanged logits."""

import torch
from torch import Tensor

RowLogprobs = tuple[float, list[tuple[int, float]]]
"""Log-probability of the drawn token, and (token id, log-probability) of the most likely tokens, in falling order."""


def logprobs(logits: Tensor, drawn: Tensor, counts: list[int | None]) -> list[RowLogprobs | None]:
    """Return the log-probabilities of each row of logits [rows, vocab_size].

    `drawn` [rows] are the drawn token ids. `counts` are the numbers of alternatives to report per row; a row whose
    count is None reports nothing.
    """
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
