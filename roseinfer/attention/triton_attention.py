"""The default backend on a GPU: attention over block tables by two Triton kernels.

A request of one new token is a decode and has a kernel that cuts its keys into splits; all others, whole prompts and
chunks of them, share a launch of the prefill kernel. What the kernels are told of a step is a few integers a request.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from torch import Tensor

from roseinfer.attention.backend import Projection
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, PromptLayout, StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.append_and_attend import append_and_attend
from roseinfer.kernels.attention.paged_decode import paged_decode_attention
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention
from roseinfer.kernels.runtime import next_power_of_two, runs_triton
from roseinfer.spans import span
from roseinfer.upload import upload

_NARROWEST_TABLE = 16


class TritonAttention:
    """Triton kernels over block tables."""

    takes_projection = True
    takes_layouts = True

    def __init__(self, sliding_window: int | None = None) -> None:
        self._window = sliding_window

    @staticmethod
    def fits(cache: KVCache) -> bool:
        """Whether the kernels themselves, and not their references, would read this cache."""
        power_of_two = cache.block_size & (cache.block_size - 1) == 0
        return power_of_two and cache.data.shape[-1] <= 256 and runs_triton(cache.data)

    def prepare(self, layout: StepLayout, cache: KVCache) -> MixedLayout | DecodeLayout:
        """Bring starts, lengths and block tables to the device, by one copy."""
        # Requests of one token that stand behind a longer one go with the prefills: that kernel takes any length, and
        # without gaps between the groups each is a slice. Schedulers put running requests first, so they are few.
        query_lens = np.array(layout.query_lens, dtype=np.int32)
        longer = np.flatnonzero(query_lens > 1)
        count = int(longer[0]) if len(longer) else len(query_lens)
        context_lens = query_lens + np.array(layout.context_lens, dtype=np.int32)
        starts = np.full(len(query_lens) - count + 1, count, dtype=np.int32)
        starts[1:] += query_lens[count:].cumsum(dtype=np.int32)
        order = np.argsort(-context_lens[:count], kind="stable").astype(np.int32)
        decode_tables, decode_lens, decode_order, prompt_tables, prompt_lens, query_starts = upload(
            layout.slots.device,
            padded_tables(layout.block_tables[:count]),
            context_lens[:count],
            order,
            padded_tables(layout.block_tables[count:]),
            context_lens[count:],
            starts,
        )
        if len(longer) == 0:
            return DecodeLayout(cache, decode_tables, decode_lens, decode_order, layout.slots)
        decodes = DecodeLayout(cache, decode_tables, decode_lens, decode_order) if count else None
        prompts = PromptLayout(prompt_tables, prompt_lens, query_starts, int(query_lens.max()))
        return MixedLayout(cache, layout.slots, decodes, prompts)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: MixedLayout | DecodeLayout) -> Tensor:
        with span("roseinfer.kv.append"):
            metadata.cache.write(layer, metadata.slots, k, v)
        return self.attend(layer, q, metadata)

    def append_and_attend(self, layer: int, projection: Projection, metadata: MixedLayout | DecodeLayout) -> Tensor:
        if isinstance(metadata, MixedLayout):
            return self.attend(layer, projection.append(layer, metadata.cache, metadata.slots), metadata)
        with span("roseinfer.attention"):
            keys, values = metadata.cache.data[layer]
            return append_and_attend(
                projection.qkv,
                projection.table,
                keys,
                values,
                metadata.block_tables,
                metadata.context_lens,
                projection.num_heads,
                projection.q_norm,
                projection.k_norm,
                projection.eps,
                order=metadata.order,
                sliding_window=self._window,
            )

    def attend(self, layer: int, q: Tensor, metadata: MixedLayout | DecodeLayout) -> Tensor:
        """`forward` without its first half, for tokens whose keys and values are stored."""
        with span("roseinfer.attention"):
            if isinstance(metadata, DecodeLayout):
                return self._decode(layer, q, metadata)
            out = self._prefill(layer, q, metadata.cache, metadata.prompts)
            if metadata.decodes is not None:
                count = len(metadata.decodes.context_lens)
                self._decode(layer, q[:count], metadata.decodes, out[:count])
            return out

    def _decode(self, layer: int, q: Tensor, decodes: DecodeLayout, out: Tensor | None = None) -> Tensor:
        """With `out`, right behind the prompts of the same step."""
        keys, values = decodes.cache.data[layer]
        return paged_decode_attention(
            q,
            keys,
            values,
            decodes.block_tables,
            decodes.context_lens,
            order=decodes.order,
            sliding_window=self._window,
            out=out,
            beside=out is not None,
        )

    def _prefill(self, layer: int, q: Tensor, cache: KVCache, prompts: PromptLayout) -> Tensor:
        keys, values = cache.data[layer]
        return paged_prefill_attention(
            q,
            keys,
            values,
            prompts.block_tables,
            prompts.query_starts,
            prompts.context_lens,
            max_query_len=prompts.max_query_len,
            sliding_window=self._window,
        )


def padded_tables(tables: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Block tables as one array [requests, blocks], padded with block 0.

    The number of blocks is a power of two: kernels are compiled for classes of it, and those shall be few.
    """
    counts = np.array([len(table) for table in tables], dtype=np.int64)
    width = next_power_of_two(max([_NARROWEST_TABLE, *counts.tolist()]))
    padded = np.zeros((len(tables), width), dtype=np.int32)
    padded[np.arange(width) < counts[:, None]] = np.fromiter(chain.from_iterable(tables), np.int32, counts.sum())
    return padded
