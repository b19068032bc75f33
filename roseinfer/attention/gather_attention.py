"""The reference backend: copy every request's blocks into one padded batch, then run plain attention.

The backend is slow on purpose and simple enough to be obviously right. Faster backends are tested against it, and it is
the inefficiency that the profiler demonstrates.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.attention.backend import AttendsFromAll
from roseinfer.attention.dot_product_attention import dot_product_attention
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.attention.torch_projection import RotationCache, split_projection
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.projection import Projection
from roseinfer.spans import span


@dataclass(frozen=True)
class GatheredPast:
    """Keys and values gathered for one step, as a padded batch."""

    cache: KVCache
    slots: Tensor  # [tokens]
    past: list[tuple[Tensor, Tensor]]  # keys and values per layer, [requests, max_context, kv_heads, head_dim] each
    context_lens: Tensor  # [requests], tokens in the cache before this step
    mask: Tensor  # [requests, 1, max_query, max_context + max_query], True where a query may attend without a window
    rows: Tensor  # [tokens], request of each packed token
    columns: Tensor  # [tokens], position of each packed token among its request's new tokens
    rotations: RotationCache = field(default_factory=dict)
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def mask_within(self, window: int | None) -> Tensor:
        """Return the mask for a sliding window. Layers with the same window share the mask."""
        if window is None:
            return self.mask
        if window not in self._masks:
            max_query, num_keys = self.mask.shape[2:]
            self._masks[window] = self.mask & _within(window, self.context_lens, max_query, num_keys - max_query)
        return self._masks[window]


class GatherAttention(AttendsFromAll):
    """Padded attention over gathered blocks."""

    capturable: ClassVar[bool] = False

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return a backend; it supports every cache."""
        return cls()

    def prepare(self, layout: StepLayout, cache: KVCache) -> GatheredPast:
        """Gather the past of all requests, layer by layer and request by request."""
        with span("roseinfer.decode.build_batched_past"):
            device = layout.slots.device
            tables = [torch.tensor(table, dtype=torch.int64, device=device) for table in layout.block_tables]
            past = [_gather(cache, layer, tables, layout.context_lens) for layer in range(cache.num_layers)]
        query_lens = torch.tensor(layout.query_lens, device=device)
        context_lens = torch.tensor(layout.context_lens, device=device)
        rows = torch.repeat_interleave(torch.arange(len(layout.query_lens), device=device), query_lens)
        first = query_lens.cumsum(0) - query_lens
        columns = torch.arange(len(layout.slots), device=device) - first[rows]
        mask = _causal_mask(query_lens, context_lens, max(layout.query_lens), max(layout.context_lens))
        return GatheredPast(cache, layout.slots, past, context_lens, mask, rows, columns)

    def attend(self, projection: Projection, metadata: GatheredPast) -> Tensor:
        """Store the new keys and values, and attend to them and to the gathered past."""
        layer, spec = projection.layer.index, projection.layer.spec
        q, k, v = split_projection(projection, metadata.rotations)
        with span("roseinfer.kv.append"):
            metadata.cache.write(layer, metadata.slots, k, v)
        with span("roseinfer.attention"):
            past_keys, past_values = metadata.past[layer]
            keys = torch.cat((past_keys, _pad(k, metadata)), dim=1)
            values = torch.cat((past_values, _pad(v, metadata)), dim=1)
            batch = (_pad(q, metadata).transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
            mask = metadata.mask_within(spec.window)
            sinks = projection.layer.sinks
            out = dot_product_attention(*batch, mask, spec, None if sinks is None else sinks.view(1, -1, 1))
            return out.transpose(1, 2)[metadata.rows, metadata.columns]


def _gather(cache: KVCache, layer: int, tables: list[Tensor], context_lens: list[int]) -> tuple[Tensor, Tensor]:
    """Return one layer's past keys and values of all requests, [requests, max_context, kv_heads, head_dim] each."""
    longest = max(context_lens)
    keys, values = [], []
    for table, length in zip(tables, context_lens, strict=True):
        padding = (0, 0, 0, 0, 0, longest - length)
        key, value = cache.read(layer, table)
        keys.append(F.pad(key[:length], padding))
        values.append(F.pad(value[:length], padding))
    return torch.stack(keys), torch.stack(values)


def _pad(x: Tensor, metadata: GatheredPast) -> Tensor:
    """Unpack [tokens, heads, head_dim] to [requests, max_query, heads, head_dim], with zeros after shorter requests."""
    requests, _, max_query, _ = metadata.mask.shape
    padded = x.new_zeros(requests, max_query, *x.shape[1:])
    padded[metadata.rows, metadata.columns] = x
    return padded


def _causal_mask(query_lens: Tensor, context_lens: Tensor, max_query: int, max_context: int) -> Tensor:
    """Return a mask, True where a query may attend: to its request's past, and to new tokens up to itself.

    [requests, 1, max_query, max_context + max_query].
    """
    device = query_lens.device
    past = torch.arange(max_context, device=device) < context_lens[:, None]  # [requests, max_context]
    new = torch.arange(max_query, device=device)
    causal = (new[None, :] <= new[:, None]) & (new < query_lens[:, None, None])  # [requests, max_query, max_query]
    return torch.cat((past[:, None, :].expand(-1, max_query, -1), causal), dim=-1).unsqueeze(1)


def _within(window: int, context_lens: Tensor, max_query: int, max_context: int) -> Tensor:
    """Return a mask, True where a key is less than `window` tokens back.

    [requests, 1, max_query, max_context + max_query].
    """
    device = context_lens.device
    new = context_lens[:, None] + torch.arange(max_query, device=device)  # [requests, max_query], positions
    past = torch.arange(max_context, device=device).expand(len(context_lens), -1)
    keys = torch.cat((past, new), dim=-1)
    return (keys[:, None, :] > new[:, :, None] - window).unsqueeze(1)
