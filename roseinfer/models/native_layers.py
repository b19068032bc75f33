"""A decoder's layers as the compiled kernels of the CPU take them: a table of addresses, and one call a step."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from roseinfer.attention.step_layouts import DecodeLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.cpu.native_matmul import WeightKind, WeightStruct
from roseinfer.kernels.cpu.native_step import LayerStruct, StepStruct, decode_layers
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.rope import RotaryEmbedding


class NativeLayers:
    """All layers of one decoder over one KV cache. The decoder keeps the tensors alive, and where they are."""

    def __init__(self, layers: nn.ModuleList, config: ModelConfig, cache: KVCache, rope: RotaryEmbedding) -> None:
        self.cache = cache
        self._config = config
        self._dtype = cache.data.dtype
        self._table = (LayerStruct * len(layers))(
            *(_layer(layer, keys, values) for layer, (keys, values) in zip(layers, cache.flat, strict=True))
        )
        self._room: list[Tensor] = []
        self._step = StepStruct(
            layers=ctypes.cast(self._table, ctypes.c_void_p),
            table=rope.table.data_ptr(),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=cache.block_size,
            sliding_window=config.sliding_window or 0,
            eps=config.norm_eps,
            scale=config.head_dim**-0.5,
        )

    @staticmethod
    def fits(layers: nn.ModuleList, config: ModelConfig, cache: KVCache) -> bool:
        """Whether the kernel can run these: sizes in whole vectors, weights in forms that it knows."""
        sizes = (config.hidden_size, config.intermediate_size, config.head_dim // 2)
        return (
            native_kernels.runs_native(cache.data)
            and native_kernels.supports_head_dim(config.head_dim)
            and all(size % native_kernels.LANES == 0 for size in sizes)
            and all(_fits(layer, cache.data.dtype) for layer in layers)
        )

    def run(self, hidden: Tensor, positions: Tensor, layout: DecodeLayout) -> Tensor:
        """Embeddings of one new token a request [requests, hidden_size] -> the residual stream behind the layers.

        hidden may be overwritten.
        """
        stream, step = hidden.contiguous(), self._step
        self._make_room(len(stream))
        step.rows = len(stream)
        step.stream = stream.data_ptr()
        step.positions = positions.data_ptr()
        step.slots = layout.slots.data_ptr()
        step.block_tables = layout.block_tables.data_ptr()
        step.context_lens = layout.context_lens.data_ptr()
        step.table_stride = layout.block_tables.stride(0)
        decode_layers(step, self._dtype, len(self._table))
        return stream

    def _make_room(self, rows: int) -> None:
        """For what the parts of a layer leave to each other."""
        if self._room and len(self._room[0]) >= rows:
            return
        config = self._config
        query = config.num_heads * config.head_dim
        sizes = {
            "qkv": query + 2 * config.num_kv_heads * config.head_dim,
            "attended": query,
            "gate_up": 2 * config.intermediate_size,
            "active": config.intermediate_size,
        }
        self._room = [self.cache.data.new_empty(rows, size) for size in sizes.values()]
        for name, tensor in zip(sizes, self._room, strict=True):
            setattr(self._step, name, tensor.data_ptr())


def _fits(layer: nn.Module, dtype: torch.dtype) -> bool:
    for linear in layer.modules():
        if not isinstance(linear, Linear):
            continue
        weight = linear.packed
        if not isinstance(weight, NativeWeight) or (weight.kind is WeightKind.PLAIN and weight.data.dtype != dtype):
            return False
    return True


def _layer(layer: Any, keys: Tensor, values: Tensor) -> LayerStruct:
    def weight_of(norm: RMSNorm | None) -> int | None:
        return None if norm is None else norm.weight.data_ptr()

    return LayerStruct(
        attention_norm=weight_of(layer.attention_norm),
        mlp_norm=weight_of(layer.mlp_norm),
        q_norm=weight_of(layer.q_norm),
        k_norm=weight_of(layer.k_norm),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        qkv=_weight(layer.qkv),
        output=_weight(layer.output),
        gate_up=_weight(layer.mlp.gate_up),
        down=_weight(layer.mlp.down),
    )


def _weight(linear: Linear) -> WeightStruct:
    assert isinstance(linear.packed, NativeWeight)
    return linear.packed.struct(linear.bias)
