"""The default backend: attention over the blocks that each request has, with torch operations alone.

Requests of similar length form a group and run as one operation each; a group's longest member is at most twice as
long as its shortest, so padding stays small however much the lengths in a batch differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.attention.base import DecodeLayout, StepLayout
from roseinfer.cache.kv_cache import KVCache
from roseinfer.spans import span


@dataclass(frozen=True)
class _Group:
    """Requests that run together. Padded places repeat a valid one, and nobody reads their result."""

    rows: Tensor  # [requests, max_query], packed token of each query
    blocks: Tensor  # [requests, max_blocks], of each request, the last one repeated
    mask: Tensor  # [requests, 1, max_query, max_blocks * block_size], True where a query may look
    valid: Tensor  # [tokens of the group], places of the flattened rows that are no padding
    tokens: Tensor  # [tokens of the group], their packed tokens


@dataclass(frozen=True)
class PagedMetadata:
    """One step's groups."""

    cache: KVCache
    slots: Tensor  # [tokens]
    groups: list[_Group]


class PagedAttention:
    """Grouped attention over block tables."""

    reads_cache = True

    def __init__(self, sliding_window: int | None = None) -> None:
        self._window = sliding_window

    def prepare(self, layout: StepLayout, cache: KVCache) -> PagedMetadata:
        """Group the requests and build their indexes and masks, once for all layers."""
        firsts, total = [], 0
        for length in layout.query_lens:
            firsts.append(total)
            total += length
        groups = [self._group(members, firsts, layout, cache.block_size) for members in _grouped(layout)]
        return PagedMetadata(cache, layout.slots, groups)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: PagedMetadata | DecodeLayout) -> Tensor:
        with span("roseinfer.kv.append"):
            metadata.cache.write(layer, metadata.slots, k, v)
        return self.attend(layer, q, metadata)

    def attend(self, layer: int, q: Tensor, metadata: PagedMetadata | DecodeLayout) -> Tensor:
        with span("roseinfer.attention"):
            if isinstance(metadata, DecodeLayout):
                return self._decode(q, metadata.cache.data[layer], metadata)
            data = metadata.cache.data[layer]  # [2, num_blocks, block_size, kv_heads, head_dim]
            if len(metadata.groups) == 1:
                return _attend(q, data, metadata.groups[0])
            out = torch.empty_like(q)
            for group in metadata.groups:
                out[group.tokens] = _attend(q, data, group)
            return out

    def _decode(self, q: Tensor, data: Tensor, layout: DecodeLayout) -> Tensor:
        from roseinfer.kernels.paged_attention import paged_decode_attention  # triton is not everywhere

        return paged_decode_attention(
            q,
            data[0],
            data[1],
            layout.block_tables,
            layout.context_lens,
            scale=q.shape[-1] ** -0.5,
            sliding_window=self._window,
        )

    def _group(self, members: Sequence[int], firsts: list[int], layout: StepLayout, block_size: int) -> _Group:
        device = layout.slots.device
        query_lens = [layout.query_lens[index] for index in members]
        tables = [layout.block_tables[index] for index in members]
        longest, max_query = max(map(len, tables)), max(query_lens)
        rows: list[list[int]] = []
        valid: list[int] = []
        tokens: list[int] = []
        for place, (index, length) in enumerate(zip(members, query_lens, strict=True)):
            first = firsts[index]
            own = range(first, first + length)
            rows.append([*own, *[own[-1]] * (max_query - length)])
            valid += range(place * max_query, place * max_query + length)
            tokens += own
        contexts = torch.tensor([layout.context_lens[index] for index in members], device=device)
        queries = contexts[:, None] + torch.arange(max_query, device=device)  # [requests, max_query], positions
        keys = torch.arange(longest * block_size, device=device)
        mask = keys <= queries[:, :, None]
        if self._window is not None:
            mask &= keys > queries[:, :, None] - self._window
        return _Group(
            rows=torch.tensor(rows, device=device),
            blocks=torch.tensor([[*table, *[table[-1]] * (longest - len(table))] for table in tables], device=device),
            mask=mask.unsqueeze(1),
            valid=torch.tensor(valid, device=device),
            tokens=torch.tensor(tokens, device=device),
        )


def _grouped(layout: StepLayout) -> list[list[int]]:
    """Indexes of requests, in groups within which neither queries nor blocks differ more than twofold.

    Within a group the packing order is kept, so that a step of one group needs no reordering of its result.
    """
    order = sorted(
        range(len(layout.query_lens)), key=lambda i: (layout.query_lens[i], len(layout.block_tables[i])), reverse=True
    )
    groups: list[list[int]] = []
    limits: list[tuple[int, int]] = []  # of each group: its largest query and table
    for index in order:
        query, blocks = layout.query_lens[index], len(layout.block_tables[index])
        for group, (most_queries, most_blocks) in zip(groups, limits, strict=True):
            if most_queries <= 2 * query and blocks <= most_blocks <= 2 * blocks:
                group.append(index)
                break
        else:
            groups.append([index])
            limits.append((query, blocks))
    return [sorted(group) for group in groups]


def _attend(q: Tensor, data: Tensor, group: _Group) -> Tensor:
    """The group's packed queries' result, [tokens of the group, heads, head_dim]."""
    keys, values = data[:, group.blocks].flatten(2, 3)  # [requests, max_blocks * block_size, kv_heads, head_dim] each
    kv_heads = keys.shape[2]
    requests, max_query = group.rows.shape
    # Query heads that share a key head stand beside each other as further queries: keys are read once, not copied.
    sharing, head_dim = q.shape[1] // kv_heads, q.shape[2]
    queries = q[group.rows].view(requests, max_query, kv_heads, sharing, head_dim)
    queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [requests, kv_heads, sharing * max_query, head_dim]
    mask = group.mask.repeat(1, 1, sharing, 1) if max_query > 1 else group.mask
    out = F.scaled_dot_product_attention(queries, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
    out = out.reshape(requests, kv_heads, sharing, max_query, head_dim).permute(0, 3, 1, 2, 4)
    return out.reshape(requests * max_query, kv_heads * sharing, head_dim)[group.valid]
