"""The default backend on a CPU without compiled kernels, and on a GPU where the Triton kernels do not run.

Requests of similar length form a group, and each group runs as one torch operation. The longest request of a group is
at most twice as long as its shortest, so padding stays small however much the lengths of a batch differ. If a request
is alone in its group and its blocks are adjacent, its keys and values are read in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from roseinfer.attention.backend import AttendsFromAll
from roseinfer.attention.compiled_attention import Append, append_on_cpu
from roseinfer.attention.dot_product_attention import dot_product_attention
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.attention.torch_projection import RotationCache, split_projection
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.projection import AttentionLayer, Projection
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.kernels.cpu import native_kernels
from roseinfer.spans import span


@dataclass(frozen=True)
class _Packing:
    """Indexes that unpack a group's queries from the step's tokens and pack its results again."""

    rows: Tensor  # [requests, max_query], packed token of each query; a padding query repeats its request's last one
    valid: Tensor  # [tokens of the group], indexes of the queries in flattened `rows` that are not padding
    tokens: Tensor  # [tokens of the group], their packed tokens


@dataclass(frozen=True)
class _Group:
    """Requests that run together, padded to one shape. Results of padding are dropped."""

    query_lens: list[int]
    """New tokens per request."""
    context_lens: list[int]
    """Tokens per request that the cache already holds."""
    max_query: int
    """Maximum of `query_lens`."""
    num_keys: int
    """Tokens of the longest request, new ones included."""
    in_place: tuple[Tensor, ...] | None
    """Keys and values as views of the cache, if the group is a single request with adjacent blocks.

    The keys, then the values of each layer, [1, kv_heads, num_keys, head_dim] each.
    """
    blocks: Tensor
    """Blocks of each request, padded with its last block: [requests * max_blocks]. Empty if `in_place` is given."""
    packing: _Packing | None
    """Indexes that unpack and pack tokens; None if the group is the whole step and needs no padding."""
    _masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, sharing: int, like: Tensor) -> Tensor | None:
        """Return the mask to add to the scores: 0, or -inf where a query must not attend. None if nothing is masked.

        [requests, 1, sharing * max_query, num_keys] for `sharing` query heads per key-value head; a mask of single
        queries broadcasts over them: [requests, 1, 1, num_keys]. Layers with the same window share the mask. Dtype and
        device are those of `like`.
        """
        key = (window, sharing)
        if key not in self._masks:
            self._masks[key] = self._new_mask(window, sharing, like)
        return self._masks[key]

    def _new_mask(self, window: int | None, sharing: int, like: Tensor) -> Tensor | None:
        max_query = self.max_query
        decodes = max_query == 1 and min(self.context_lens) == self.num_keys - 1
        if decodes and (window is None or self.num_keys <= window):
            return None
        contexts = torch.tensor(self.context_lens, device=like.device)
        queries = contexts[:, None, None] + torch.arange(max_query, device=like.device)[:, None]  # positions
        keys = torch.arange(self.num_keys, device=like.device)
        hidden = keys > queries  # [requests, max_query, num_keys]
        if window is not None:
            hidden |= keys <= queries - window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        mask = mask.masked_fill_(hidden, float("-inf")).unsqueeze(1)
        return mask if max_query == 1 else mask.repeat(1, 1, sharing, 1)


@dataclass(frozen=True)
class GroupedStep:
    """The groups of requests of one step, with the cache and the slots of the new tokens."""

    cache: KVCache
    slots: Tensor  # [tokens]
    groups: list[_Group]
    rotations: RotationCache = field(default_factory=dict)


class TorchAttention(AttendsFromAll):
    """Attention by torch operations, over groups of requests."""

    capturable: ClassVar[bool] = False

    def __init__(self, append: Append | None = None) -> None:
        """Without `append`, torch operations rotate queries and keys and store the new tokens."""
        self._append = append

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return a backend; it supports every cache, and appends by a fused kernel if one supports the cache."""
        if cache.data.device.type != "cpu":
            return cls(rope_append)
        return cls(append_on_cpu(cache) if native_kernels.runs_native(cache.data) else None)

    def prepare(self, layout: StepLayout, cache: KVCache) -> GroupedStep:
        """Group requests of similar length, and build the indexes of each group."""
        firsts, total = [], 0
        for length in layout.query_lens:
            firsts.append(total)
            total += length
        groups = [_group(members, firsts, layout, cache) for members in _grouped(layout)]
        return GroupedStep(cache, layout.slots, groups)

    def attend(self, projection: Projection, metadata: GroupedStep) -> Tensor:
        """Store the new keys and values, and attend group by group."""
        cache, layer = metadata.cache, projection.layer.index
        if self._append is None:
            q, k, v = split_projection(projection, metadata.rotations)
            with span("roseinfer.kv.append"):
                cache.write(layer, metadata.slots, k, v)
        else:
            with span("roseinfer.kv.append"):
                q = self._append(projection, metadata.slots, *cache.data[layer])
        with span("roseinfer.attention"):
            if len(metadata.groups) == 1:
                return _attend(projection.layer, q, cache, metadata.groups[0])
            out = torch.empty_like(q)
            for group in metadata.groups:
                assert group.packing is not None
                out[group.packing.tokens] = _attend(projection.layer, q, cache, group)
            return out


def _group(members: Sequence[int], firsts: list[int], layout: StepLayout, cache: KVCache) -> _Group:
    """Return the group of the requests with indexes `members`; `firsts` is the first packed token of each request."""
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
        query_lens=query_lens,
        context_lens=context_lens,
        max_query=max(query_lens),
        num_keys=num_keys,
        in_place=_in_place(cache, tables[0][0] * cache.block_size, num_keys) if alone else None,
        blocks=torch.tensor(
            [] if alone else [block for table in tables for block in table + [table[-1]] * (longest - len(table))],
            dtype=torch.int64,
            device=device,
        ),
        packing=None if whole else _packing([firsts[index] for index in members], query_lens, device),
    )


def _packing(firsts: list[int], query_lens: list[int], device: torch.device) -> _Packing:
    """Return a group's packing indexes, from each request's first packed token and its number of new tokens."""
    max_query = max(query_lens)
    rows: list[list[int]] = []
    valid: list[int] = []
    tokens: list[int] = []
    for row, (first, length) in enumerate(zip(firsts, query_lens, strict=True)):
        own = range(first, first + length)
        rows.append([*own, *[own[-1]] * (max_query - length)])
        valid += range(row * max_query, row * max_query + length)
        tokens += own
    return _Packing(
        rows=torch.tensor(rows, device=device),
        valid=torch.tensor(valid, device=device),
        tokens=torch.tensor(tokens, device=device),
    )


def _grouped(layout: StepLayout) -> list[list[int]]:
    """Return the indexes of requests by group. Within a group, queries and blocks differ at most twofold.

    A group keeps the packing order, so that the result of a step with one group needs no reordering.
    """
    order = sorted(
        range(len(layout.query_lens)), key=lambda i: (layout.query_lens[i], len(layout.block_tables[i])), reverse=True
    )
    groups: list[list[int]] = []
    limits: list[tuple[int, int]] = []  # largest number of queries and of blocks per group
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


def _attend(layer: AttentionLayer, q: Tensor, cache: KVCache, group: _Group) -> Tensor:
    """Return the attention of the group's queries, packed: [tokens of the group, heads, head_dim]."""
    spec, index = layer.spec, layer.index
    if group.in_place is not None:
        keys, values = group.in_place[2 * index : 2 * index + 2]
    else:
        keys, values = (_read(flat, cache.block_size, group).transpose(1, 2) for flat in cache.flat[index])
    requests, max_query, kv_heads, head_dim = len(group.query_lens), group.max_query, keys.shape[1], q.shape[2]
    # Query heads that share a key head become further queries of that head: keys are read once and not copied.
    sharing = q.shape[1] // kv_heads
    mask = group.mask(spec.window, sharing, keys)
    sinks = None if layer.sinks is None else layer.sinks.view(1, kv_heads, sharing)
    if max_query == 1 and group.packing is None:  # such steps are so short that every extra view counts
        queries = q.view(requests, kv_heads, sharing, head_dim)
        out = dot_product_attention(queries, keys, values, mask, spec, sinks)
        return out.reshape(q.shape)
    queries = q if group.packing is None else q[group.packing.rows]
    queries = queries.reshape(requests, max_query, kv_heads, sharing, head_dim)
    queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [requests, kv_heads, sharing * max_query, head_dim]
    if sinks is not None:
        sinks = sinks.repeat_interleave(max_query, dim=2)
    out = dot_product_attention(queries, keys, values, mask, spec, sinks)
    out = out.view(requests, kv_heads, sharing, max_query, head_dim).permute(0, 3, 1, 2, 4)
    out = out.reshape(requests * max_query, kv_heads * sharing, head_dim)
    return out if group.packing is None else out[group.packing.valid]


def _in_place(cache: KVCache, first_slot: int, num_keys: int) -> tuple[Tensor, ...]:
    """Return the views for `_Group.in_place`, created for all layers at once."""
    slots = cache.data.flatten(2, 3)[:, :, None, first_slot : first_slot + num_keys]
    return slots.transpose(3, 4).flatten(0, 1).unbind(0)


def _read(flat: Tensor, block_size: int, group: _Group) -> Tensor:
    """Copy the keys or values of the group's requests: [requests, num_keys, kv_heads, head_dim]."""
    # index_select of whole blocks copies at the memory's speed on a CPU; other ways to index are six times slower.
    gathered = flat.view(-1, block_size, *flat.shape[1:]).index_select(0, group.blocks)
    return gathered.view(len(group.query_lens), -1, *flat.shape[1:])[:, : group.num_keys]
