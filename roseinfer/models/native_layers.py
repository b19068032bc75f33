"""A decoder's layers as the compiled kernels of the CPU take them: a table of addresses, and one call a step."""

from typing import Any

from torch import Tensor, nn

from roseinfer.attention.base import DecodeLayout
from roseinfer.cache.kv_cache import KVCache
from roseinfer.kernels import native
from roseinfer.kernels.quantized_linear import Int4Groups, Int8Rows
from roseinfer.models.config import ModelConfig
from roseinfer.models.layers import Linear, RMSNorm
from roseinfer.models.rope import RotaryEmbedding


class NativeLayers:
    """All layers of one decoder over one KV cache. The decoder keeps the tensors alive."""

    def __init__(self, layers: nn.ModuleList, config: ModelConfig, cache: KVCache) -> None:
        self.cache = cache
        self._config = config
        self._table = (native.Layer * len(layers))(
            *(_layer(layer, keys, values) for layer, (keys, values) in zip(layers, cache.flat, strict=True))
        )

    @staticmethod
    def fits(layers: nn.ModuleList, config: ModelConfig, cache: KVCache) -> bool:
        """Whether the kernel can run these: sizes in whole vectors, weights in forms that it knows."""
        sizes = (config.hidden_size, config.intermediate_size, config.head_dim // 2)
        return (
            native.runs_native(cache.data)
            and native.attends(config.head_dim)
            and all(size % native.LANES == 0 for size in sizes)
            and all(_known(module, config) for module in layers.modules() if isinstance(module, Linear))
        )

    def run(self, hidden: Tensor, positions: Tensor, rope: RotaryEmbedding, layout: DecodeLayout) -> Tensor:
        """Embeddings of one new token a request [requests, hidden_size] -> the residual stream behind the layers."""
        config = self._config
        stream = hidden.contiguous()
        native.decode_layers(
            self._table,
            stream,
            rope.table,
            positions,
            layout.slots,
            layout.block_tables,
            layout.context_lens,
            intermediate_size=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=self.cache.block_size,
            sliding_window=config.sliding_window,
            eps=config.norm_eps,
        )
        return stream


def _known(linear: Linear, config: ModelConfig) -> bool:
    if isinstance(linear.quantized, Int4Groups):
        # Gates and ups are computed in equal parts, which must not cut a pack.
        return config.intermediate_size % (2 * linear.quantized.half) == 0
    return isinstance(linear.quantized, Int8Rows) or (linear.quantized is None and not linear.weight.is_mkldnn)


def _layer(layer: Any, keys: Tensor, values: Tensor) -> native.Layer:
    def weight_of(norm: RMSNorm | None) -> int | None:
        return None if norm is None else norm.weight.data_ptr()

    return native.Layer(
        attention_norm=weight_of(layer.attention_norm),
        mlp_norm=weight_of(layer.mlp_norm),
        q_norm=weight_of(layer.q_norm),
        k_norm=weight_of(layer.k_norm),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        qkv=_weight(layer.qkv),
        output=_weight(layer.output),
        gate_up=_weight(layer.gate_up),
        down=_weight(layer.down),
    )


def _weight(linear: Linear) -> native.Weight:
    quantized = linear.quantized
    bias = None if linear.bias is None else linear.bias.data_ptr()
    if isinstance(quantized, Int8Rows):
        outputs, size = quantized.codes.shape
        values, scales, kind, half = quantized.codes, quantized.scales, 1, 0
    elif isinstance(quantized, Int4Groups):
        outputs, size = quantized.packed.shape[0], 2 * quantized.packed.shape[1]
        values, scales, kind, half = quantized.packed, quantized.scales_and_offsets, 2, quantized.half
    else:
        outputs, size = linear.weight.shape
        return native.Weight(linear.weight.data_ptr(), None, bias, 0, outputs, size, 0)
    return native.Weight(values.data_ptr(), scales.data_ptr(), bias, kind, outputs, size, half)
