"""The default backend on a GPU: attention over block tables by Triton kernels.

A request with one new token is a decode: its kernel splits the keys over several programs. All other requests, whole
prompts and chunks, share one launch of the prefill kernel. Per step, the kernels need a few integers per request.
"""

from typing import ClassVar, Self

from torch import Tensor

from roseinfer.attention.kernel_layouts import kernel_layout
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.append_and_attend import append_and_attend
from roseinfer.kernels.attention.decode_kernel import DecodeOutput
from roseinfer.kernels.attention.paged_decode import paged_decode_attention
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention
from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.kernels.runtime import runs_triton
from roseinfer.spans import span


class TritonAttention:
    """Triton kernels over block tables. On a CPU, and for shapes that a kernel does not take, its reference runs."""

    capturable: ClassVar[bool] = True

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return a backend if the kernels themselves, not their references, run on this cache."""
        power_of_two = cache.block_size & (cache.block_size - 1) == 0
        return cls() if power_of_two and cache.data.shape[-1] <= 256 and runs_triton(cache.data) else None

    def prepare(self, layout: StepLayout, cache: KVCache) -> MixedLayout | DecodeLayout:
        """Upload query starts, lengths and block tables in one copy."""
        return kernel_layout(layout, cache)

    def attend(self, projection: Projection, metadata: MixedLayout | DecodeLayout) -> Tensor:
        """Run one kernel for decodes alone; else append, then run attention for prompts, then for decodes."""
        layer = projection.layer
        keys, values = metadata.cache.data[layer.index]
        if isinstance(metadata, DecodeLayout):
            with span("roseinfer.attention"):
                return append_and_attend(
                    projection, keys, values, metadata.block_tables, metadata.context_lens, order=metadata.order
                )
        with span("roseinfer.kv.append"):
            q = rope_append(projection, metadata.slots, keys, values)
        with span("roseinfer.attention"):
            scale, window = layer.spec.scale, layer.spec.window
            prompts, decodes = metadata.prompts, metadata.decodes
            out = paged_prefill_attention(
                q,
                keys,
                values,
                prompts.block_tables,
                prompts.query_starts,
                prompts.context_lens,
                max_query_len=prompts.max_query_len,
                scale=scale,
                sliding_window=window,
            )
            if decodes is not None:
                count = len(decodes.context_lens)
                paged_decode_attention(
                    q[:count],
                    keys,
                    values,
                    decodes.block_tables,
                    decodes.context_lens,
                    order=decodes.order,
                    scale=scale,
                    sliding_window=window,
                    output=DecodeOutput(out[:count], overlaps=True),
                )
            return out
