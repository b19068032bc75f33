"""The default backend on a CPU with compiled kernels: attention over block tables, one call per part of a layer."""

from collections.abc import Callable
from typing import ClassVar, Self

from torch import Tensor

from roseinfer.attention.backend import AttendsFromAll
from roseinfer.attention.kernel_layouts import kernel_layout
from roseinfer.attention.step_layouts import DecodeLayout, MixedLayout, StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.attention.rope_append import rope_append_reference
from roseinfer.kernels.cpu import native_kernels
from roseinfer.spans import span

Append = Callable[[Projection, Tensor, Tensor, Tensor], Tensor]
"""`rope_append` in one of its implementations: (projection, slots, key_cache, value_cache) -> queries."""


class CompiledAttention(AttendsFromAll):
    """Attention over block tables by the compiled CPU kernels."""

    capturable: ClassVar[bool] = False

    def __init__(self, append: Append = native_kernels.rope_append) -> None:
        self._append = append

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return a backend if the kernels are loaded and take this cache."""
        keys, values = cache.data[0]
        return cls(append_on_cpu(cache)) if native_kernels.runs_attention(keys, keys, values) else None

    def prepare(self, layout: StepLayout, cache: KVCache) -> MixedLayout | DecodeLayout:
        """Return query starts, lengths and block tables as tensors."""
        return kernel_layout(layout, cache)

    @staticmethod
    def decodes(metadata: MixedLayout | DecodeLayout) -> DecodeLayout | None:
        """Return the metadata of a step of decodes alone; None for a step with prompts."""
        return metadata if isinstance(metadata, DecodeLayout) else None

    def attend(self, projection: Projection, metadata: MixedLayout | DecodeLayout) -> Tensor:
        """Append the new keys and values, then run attention for prompts and for decodes."""
        layer = projection.layer
        keys, values = metadata.cache.data[layer.index]
        with span("roseinfer.kv.append"):
            q = self._append(projection, metadata.slots, keys, values)
        with span("roseinfer.attention"):
            if isinstance(metadata, DecodeLayout):
                tables, lengths = metadata.block_tables, metadata.context_lens
                return native_kernels.paged_decode_attention(q, keys, values, tables, lengths, scoring=layer.scoring)
            prompts, decodes = metadata.prompts, metadata.decodes
            out = native_kernels.paged_prefill_attention(
                q,
                keys,
                values,
                prompts.block_tables,
                prompts.query_starts,
                prompts.context_lens,
                scoring=layer.scoring,
            )
            if decodes is not None:
                count = len(decodes.context_lens)
                native_kernels.paged_decode_attention(
                    q[:count],
                    keys,
                    values,
                    decodes.block_tables,
                    decodes.context_lens,
                    scoring=layer.scoring,
                    out=out[:count],
                )
            return out


def append_on_cpu(cache: KVCache) -> Append:
    """Return the compiled `rope_append` if it takes this head size, else the reference."""
    takes = cache.data.shape[-1] % (2 * native_kernels.LANES) == 0
    return native_kernels.rope_append if takes else rope_append_reference
