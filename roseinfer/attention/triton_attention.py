"""The default backend on a GPU: attention over block tables by Triton kernels, and by cuDNN for long prompts.

A request with one new token is a decode: its kernel splits the keys over several programs. All other requests, whole
prompts and chunks, share one launch of the prefill kernel. Per step, the kernels need a few integers per request.

Long prompts without cached tokens have all of their keys and values in the projection itself. Most of their tokens are
computed there by cuDNN, which is faster; so is the attention of long chunks to cached tokens. See `dense_layouts`.
"""

from typing import ClassVar, Self

from torch import Tensor

from roseinfer.attention.dense_prompts import attend_dense, takes_dense
from roseinfer.attention.kernel_layouts import kernel_layout
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.append_and_attend import append_and_attend
from roseinfer.kernels.attention.decode_kernel import DecodeOutput
from roseinfer.kernels.attention.dense_attention import supports_dense
from roseinfer.kernels.attention.paged_decode import paged_decode_attention
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention
from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.kernels.runtime import runs_triton
from roseinfer.spans import span


class TritonAttention:
    """Triton kernels over block tables. On a CPU, and for shapes that a kernel does not take, its reference runs."""

    capturable: ClassVar[bool] = True

    def __init__(self, *, dense: bool = False) -> None:
        """`dense`: True if long prompts run over contiguous keys and values, in layers that `takes_dense` accepts."""
        self.dense = dense

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return a backend if the kernels themselves, not their references, run on this cache."""
        power_of_two = cache.block_size & (cache.block_size - 1) == 0
        if not power_of_two or cache.data.shape[-1] > 256 or not runs_triton(cache.data):
            return None
        return cls(dense=supports_dense(cache.data))

    def prepare(self, layout: StepLayout, cache: KVCache) -> MixedLayout | DecodeLayout:
        """Upload query starts, lengths and block tables in one copy."""
        return kernel_layout(layout, cache, dense=self.dense)

    def attend(self, projection: Projection, metadata: MixedLayout | DecodeLayout) -> Tensor:
        """Run one kernel for decodes alone; else append, then run attention for prompts, then for decodes."""
        layer = projection.layer
        keys, values = metadata.cache.data[layer.index]
        if isinstance(metadata, DecodeLayout):
            with span("roseinfer.attention"):
                return append_and_attend(
                    projection, keys, values, metadata.block_tables, metadata.context_lens, order=metadata.order
                )
        spec, prompts, decodes = layer.spec, metadata.prompts, metadata.decodes
        dense = prompts.dense if self.dense and takes_dense(spec) else None
        with span("roseinfer.kv.append"):
            q = rope_append(projection, metadata.slots, keys, values, in_place=dense is not None)
        with span("roseinfer.attention"):
            out, earlier = None, None
            if dense is not None:
                out, earlier = attend_dense(projection.qkv, spec, (keys, values), prompts, dense)
            paged = prompts if dense is None else dense.rest
            if paged is not None:
                out = paged_prefill_attention(
                    q,
                    keys,
                    values,
                    paged.block_tables,
                    paged.query_starts,
                    paged.context_lens,
                    max_query_len=paged.max_query_len,
                    scoring=layer.scoring,
                    out=out,
                    earlier=earlier,
                )
            assert out is not None
            if decodes is not None:
                count = len(decodes.context_lens)
                paged_decode_attention(
                    q[:count],
                    keys,
                    values,
                    decodes.block_tables,
                    decodes.context_lens,
                    order=decodes.order,
                    scoring=layer.scoring,
                    # Only the prefill kernel starts its successor early.
                    output=DecodeOutput(out[:count], overlaps=paged is not None),
                )
            return out

    def has_last(self, metadata: MixedLayout | DecodeLayout) -> bool:
        """True for steps with prompts whose layout has the last tokens."""
        return isinstance(metadata, MixedLayout) and metadata.last is not None

    def attend_last(self, stored: Projection, last: Projection, metadata: MixedLayout | DecodeLayout) -> Tensor:
        """Append the keys and values of all tokens, then run the last tokens as decodes, which append theirs again."""
        assert isinstance(metadata, MixedLayout)
        assert metadata.last is not None
        keys, values = metadata.cache.data[last.layer.index]
        with span("roseinfer.kv.append"):
            rope_append(stored, metadata.slots, keys, values)
        with span("roseinfer.attention"):
            if len(last.qkv) == 0:
                return last.qkv.new_empty(0, last.layer.spec.num_heads, last.layer.spec.head_dim)
            return append_and_attend(last, keys, values, metadata.last.block_tables, metadata.last.context_lens)
