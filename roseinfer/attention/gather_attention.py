"""The reference backend: copy every request's blocks into one padded batch, then run plain attention.

Slow on purpose, and obviously right: it is the oracle for faster backends, and the problem that the profiler is
there to expose.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.attention.backend import Projection
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.spans import span


@dataclass(frozen=True)
class GatheredPast:
    """One step's padded batch."""

    cache: KVCache
    slots: Tensor  # [tokens]
    past: list[tuple[Tensor, Tensor]]  # a layer: keys and values [requests, max_context, kv_heads, head_dim]
    mask: Tensor  # [requests, 1, max_query, max_context + max_query], True where a query may look
    rows: Tensor  # [tokens], the request of each packed token
    columns: Tensor  # [tokens], its place among the request's new tokens


class GatherAttention:
    """Padded attention over gathered blocks."""

    takes_projection = False
    takes_layouts = False

    def __init__(self, sliding_window: int | None = None) -> None:
        self._window = sliding_window

    def prepare(self, layout: StepLayout, cache: KVCache) -> GatheredPast:
        """Gather the past of all requests, layer by layer and request by request."""
        with span("roseinfer.decode.build_batched_past"):
            device = layout.slots.device
            tables = [torch.tensor(table, dtype=torch.int64, device=device) for table in layout.block_tables]
            past = [self._gather(cache, layer, tables, layout.context_lens) for layer in range(cache.num_layers)]
        query_lens = torch.tensor(layout.query_lens, device=device)
        context_lens = torch.tensor(layout.context_lens, device=device)
        rows = torch.repeat_interleave(torch.arange(len(layout.query_lens), device=device), query_lens)
        first = query_lens.cumsum(0) - query_lens
        columns = torch.arange(len(layout.slots), device=device) - first[rows]
        mask = _causal_mask(query_lens, context_lens, max(layout.query_lens), max(layout.context_lens))
        if self._window is not None:
            mask &= _within(self._window, context_lens, max(layout.query_lens), max(layout.context_lens))
        return GatheredPast(cache, layout.slots, past, mask, rows, columns)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: GatheredPast) -> Tensor:
        with span("roseinfer.kv.append"):
            metadata.cache.write(layer, metadata.slots, k, v)
        with span("roseinfer.attention"):
            past_keys, past_values = metadata.past[layer]
            keys = torch.cat((past_keys, _pad(k, metadata)), dim=1)
            values = torch.cat((past_values, _pad(v, metadata)), dim=1)
            out = F.scaled_dot_product_attention(
                _pad(q, metadata).transpose(1, 2),
                keys.transpose(1, 2),
                values.transpose(1, 2),
                attn_mask=metadata.mask,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            return out.transpose(1, 2)[metadata.rows, metadata.columns]

    def append_and_attend(self, layer: int, projection: Projection, metadata: GatheredPast) -> Tensor:
        raise TypeError("the gathered past does not hold the step's own tokens")

    @staticmethod
    def _gather(cache: KVCache, layer: int, tables: list[Tensor], context_lens: list[int]) -> tuple[Tensor, Tensor]:
        longest = max(context_lens)
        keys, values = [], []
        for table, length in zip(tables, context_lens, strict=True):
            padding = (0, 0, 0, 0, 0, longest - length)
            key, value = cache.read(layer, table)
            keys.append(F.pad(key[:length], padding))
            values.append(F.pad(value[:length], padding))
        return torch.stack(keys), torch.stack(values)


def _pad(x: Tensor, metadata: GatheredPast) -> Tensor:
    """Packed [tokens, heads, head_dim] -> [requests, max_query, heads, head_dim], zeros behind the shorter ones."""
    requests, _, max_query, _ = metadata.mask.shape
    padded = x.new_zeros(requests, max_query, *x.shape[1:])
    padded[metadata.rows, metadata.columns] = x
    return padded


def _causal_mask(query_lens: Tensor, context_lens: Tensor, max_query: int, max_context: int) -> Tensor:
    """True where a query may look: all of its own past, and new tokens up to itself."""
    device = query_lens.device
    past = torch.arange(max_context, device=device) < context_lens[:, None]  # [requests, max_context]
    new = torch.arange(max_query, device=device)
    causal = (new[None, :] <= new[:, None]) & (new < query_lens[:, None, None])  # [requests, max_query, max_query]
    return torch.cat((past[:, None, :].expand(-1, max_query, -1), causal), dim=-1).unsqueeze(1)


def _within(window: int, context_lens: Tensor, max_query: int, max_context: int) -> Tensor:
    """True where a key is at most `window` - 1 tokens back: [requests, 1, max_query, max_context + max_query]."""
    device = context_lens.device
    new = context_lens[:, None] + torch.arange(max_query, device=device)  # [requests, max_query], positions
    past = torch.arange(max_context, device=device).expand(len(context_lens), -1)
    keys = torch.cat((past, new), dim=-1)
    return (keys[:, None, :] > new[:, :, None] - window).unsqueeze(1)
