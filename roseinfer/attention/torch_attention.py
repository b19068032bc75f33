"""The default backend on a CPU: attention over the blocks that each request has.

Where compiled kernels can walk the block tables themselves, they do it. Else it is torch operations alone: requests of
similar length form a group and run as one operation each; a group's longest member is at most twice as long as its
shortest, so padding stays small however much the lengths in a batch differ. A request that runs alone, its blocks one
behind the other, is read in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.attention.backend import Projection
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, StepLayout
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.cpu import native_kernels
from roseinfer.spans import span


@dataclass(frozen=True)
class _Group:
    """Requests that run together. Padded places repeat a valid one, and nobody reads their result."""

    requests: int
    max_query: int
    num_keys: int
    """Of the longest request, new tokens included."""
    in_place: tuple[Tensor, ...] | None
    """Of a single request whose blocks follow each other: each layer's keys and then values, as views of the cache,
    [1, kv_heads, num_keys, head_dim]."""
    blocks: Tensor  # [requests * max_blocks], of each request, the last one repeated; empty where keys are in place
    mask: Tensor | None
    """What is added to the scores, [requests, 1, max_query, num_keys]: 0, or -inf where a query may not look. None
    where each may look at all of them."""
    packing: "_Packing | None"
    """None where the group is the whole step, without padding."""
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def mask_for(self, sharing: int) -> Tensor | None:
        """The mask for `sharing` query heads in a row; once made, all layers have it."""
        if self.mask is None or self.max_query == 1:
            return self.mask
        if sharing not in self._masks:
            self._masks[sharing] = self.mask.repeat(1, 1, sharing, 1)
        return self._masks[sharing]


@dataclass(frozen=True)
class _Packing:
    """Where a group's queries come from, and where their results go."""

    rows: Tensor  # [requests, max_query], packed token of each query
    valid: Tensor  # [tokens of the group], places of the flattened rows that are no padding
    tokens: Tensor  # [tokens of the group], their packed tokens


@dataclass(frozen=True)
class PagedMetadata:
    """One step's groups."""

    cache: KVCache
    slots: Tensor  # [tokens]
    groups: list[_Group]


_Metadata: TypeAlias = PagedMetadata | MixedLayout | DecodeLayout


class TorchAttention:
    """Attention over block tables, by compiled kernels or in groups."""

    takes_projection = True
    takes_layouts = False

    def __init__(self, sliding_window: int | None = None) -> None:
        self._window = sliding_window
        self._kernels = TritonAttention(sliding_window)

    def prepare(self, layout: StepLayout, cache: KVCache) -> _Metadata:
        """Group the requests and build their indexes and masks, once for all layers; kernels need neither."""
        if native_kernels.runs_native(cache.data) and native_kernels.supports_head_dim(cache.data.shape[-1]):
            return self._kernels.prepare(layout, cache)
        firsts, total = [], 0
        for length in layout.query_lens:
            firsts.append(total)
            total += length
        groups = [self._group(members, firsts, layout, cache) for members in _grouped(layout)]
        return PagedMetadata(cache, layout.slots, groups)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: _Metadata) -> Tensor:
        with span("roseinfer.kv.append"):
            metadata.cache.write(layer, metadata.slots, k, v)
        return self._attend_to_cache(layer, q, metadata)

    def append_and_attend(self, layer: int, projection: Projection, metadata: _Metadata) -> Tensor:
        return self._attend_to_cache(layer, projection.append(layer, metadata.cache, metadata.slots), metadata)

    def _attend_to_cache(self, layer: int, q: Tensor, metadata: _Metadata) -> Tensor:
        """`forward` without its first half."""
        if not isinstance(metadata, PagedMetadata):
            return self._kernels.attend(layer, q, metadata)
        with span("roseinfer.attention"):
            if len(metadata.groups) == 1:
                return _attend(layer, q, metadata.cache, metadata.groups[0])
            out = torch.empty_like(q)
            for group in metadata.groups:
                assert group.packing is not None
                out[group.packing.tokens] = _attend(layer, q, metadata.cache, group)
            return out

    def _group(self, members: Sequence[int], firsts: list[int], layout: StepLayout, cache: KVCache) -> _Group:
        device = layout.slots.device
        query_lens = [layout.query_lens[index] for index in members]
        context_lens = [layout.context_lens[index] for index in members]
        tables = [layout.block_tables[index] for index in members]
        num_keys = max(context + new for context, new in zip(context_lens, query_lens, strict=True))
        alone = len(members) == 1 and all(
            after == before + 1 for before, after in zip(tables[0], tables[0][1:], strict=False)
        )
        longest = max(map(len, tables))
        whole = len(members) == len(layout.query_lens) and min(query_lens) == max(query_lens)
        return _Group(
            requests=len(members),
            max_query=max(query_lens),
            num_keys=num_keys,
            in_place=_in_place(cache, tables[0][0] * cache.block_size, num_keys) if alone else None,
            blocks=torch.tensor(
                [] if alone else [block for table in tables for block in table + [table[-1]] * (longest - len(table))],
                dtype=torch.int64,
                device=device,
            ),
            mask=self._mask(query_lens, context_lens, num_keys, device, cache.data.dtype),
            packing=None if whole else _packing([firsts[index] for index in members], query_lens, device),
        )

    def _mask(
        self, query_lens: list[int], context_lens: list[int], num_keys: int, device: torch.device, dtype: torch.dtype
    ) -> Tensor | None:
        decodes = max(query_lens) == 1 and min(context_lens) == num_keys - 1
        if decodes and (self._window is None or num_keys <= self._window):
            return None
        contexts = torch.tensor(context_lens, device=device)
        queries = contexts[:, None, None] + torch.arange(max(query_lens), device=device)[:, None]  # positions
        keys = torch.arange(num_keys, device=device)
        hidden = keys > queries  # [requests, max_query, num_keys]
        if self._window is not None:
            hidden |= keys <= queries - self._window
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf")).unsqueeze(1)


def _packing(firsts: list[int], query_lens: list[int], device: torch.device) -> _Packing:
    """Of requests whose first queries are the packed tokens `firsts`."""
    max_query = max(query_lens)
    rows: list[list[int]] = []
    valid: list[int] = []
    tokens: list[int] = []
    for place, (first, length) in enumerate(zip(firsts, query_lens, strict=True)):
        own = range(first, first + length)
        rows.append([*own, *[own[-1]] * (max_query - length)])
        valid += range(place * max_query, place * max_query + length)
        tokens += own
    return _Packing(
        rows=torch.tensor(rows, device=device),
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


def _attend(layer: int, q: Tensor, cache: KVCache, group: _Group) -> Tensor:
    """The group's packed queries' result, [tokens of the group, heads, head_dim]."""
    if group.in_place is not None:
        keys, values = group.in_place[2 * layer : 2 * layer + 2]
    else:
        keys, values = (_read(flat, cache.block_size, group).transpose(1, 2) for flat in cache.flat[layer])
    requests, max_query, kv_heads, head_dim = group.requests, group.max_query, keys.shape[1], q.shape[2]
    # Query heads that share a key head stand beside each other as further queries: keys are read once, not copied.
    sharing = q.shape[1] // kv_heads
    if max_query == 1 and group.packing is None:  # the steps that are so short that each view counts
        queries = q.view(requests, kv_heads, sharing, head_dim)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask)
        return out.reshape(q.shape)
    queries = q if group.packing is None else q[group.packing.rows]
    queries = queries.reshape(requests, max_query, kv_heads, sharing, head_dim)
    queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [requests, kv_heads, sharing * max_query, head_dim]
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask_for(sharing))
    out = out.view(requests, kv_heads, sharing, max_query, head_dim).permute(0, 3, 1, 2, 4)
    out = out.reshape(requests * max_query, kv_heads * sharing, head_dim)
    return out if group.packing is None else out[group.packing.valid]


def _in_place(cache: KVCache, first_slot: int, num_keys: int) -> tuple[Tensor, ...]:
    """Views for `_Group.in_place`, made for all layers in one go."""
    slots = cache.data.flatten(2, 3)[:, :, None, first_slot : first_slot + num_keys]
    return slots.transpose(3, 4).flatten(0, 1).unbind(0)


def _read(flat: Tensor, block_size: int, group: _Group) -> Tensor:
    """A copy of the keys or values of the group's requests, [requests, num_keys, kv_heads, head_dim]."""
    # Whole blocks, by index_select: on a CPU it copies at the memory's speed, other ways to index are six times slower.
    gathered = flat.view(-1, block_size, *flat.shape[1:]).index_select(0, group.blocks)
    return gathered.view(group.requests, -1, *flat.shape[1:])[:, : group.num_keys]
