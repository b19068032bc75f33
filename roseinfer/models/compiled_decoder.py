"""A decoder whose decode steps run all layers in one call of the compiled CPU kernels."""

import ctypes
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.attention.compiled_attention import CompiledAttention
from roseinfer.attention.step_layouts import DecodeLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.cpu import native_step
from roseinfer.kernels.cpu.native_experts import experts_struct, router_struct
from roseinfer.kernels.cpu.native_kernels import LANES, scoring_struct
from roseinfer.kernels.cpu.native_matmul import WeightKind, WeightStruct
from roseinfer.kernels.cpu.native_step import (
    ActivationKind,
    GroupStruct,
    LayerStruct,
    NormStruct,
    StepStruct,
    decode_layers,
)
from roseinfer.kernels.experts.experts_mlp import native_tables
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.models.activation_names import ActivationName
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_blocks import DecoderLayer, PostNormLayer, SandwichLayer, ScaledLayer
from roseinfer.models.experts import ExpertsMLP
from roseinfer.models.linear import Linear
from roseinfer.models.mlp import MLP, GatedMLP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
from roseinfer.models.weight_map import WeightMap

_ACTIVATIONS: dict[ActivationName, ActivationKind] = {
    "silu": ActivationKind.SILU,
    "gelu_tanh": ActivationKind.GELU_TANH,
    "gelu": ActivationKind.GELU,
}


class CompiledDecoder(CausalLM):
    """A loaded decoder with compiled decode steps. Steps with prompts, and large batches, run the plain decoder."""

    def __init__(self, decoder: Decoder, cache: KVCache, attention: CompiledAttention) -> None:
        super().__init__()
        self.config = decoder.config
        self.decoder = decoder
        self.embed = decoder.embed
        self.norm = decoder.norm
        self.head = decoder.head
        self._attention = attention
        self._layers = CompiledLayers(decoder, cache)
        self._experts = [layer.mlp for layer in _layers_of(decoder) if isinstance(layer.mlp, ExpertsMLP)]

    @classmethod
    def around(cls, model: CausalLM, cache: KVCache, attention: AttentionBackend) -> Self | None:
        """Wrap a model, or return None if the compiled kernels cannot run its decode steps.

        The kernels support `Decoder` with the `CompiledAttention` backend, if its sizes are multiples of a vector and
        its weights are packed for the kernels.
        """
        if not isinstance(model, Decoder) or not isinstance(attention, CompiledAttention):
            return None
        config, dtype = model.config, cache.data.dtype
        sizes = [config.hidden_size, config.head_dim // 2]
        layers = _layers_of(model)
        if any(not isinstance(layer.mlp, ExpertsMLP) for layer in layers):
            sizes.append(config.intermediate_size)
        fits = all(size % LANES == 0 for size in sizes) and all(_fits(layer, dtype) for layer in layers)
        return cls(model, cache, attention) if fits else None

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: Sequence[AttentionMetadata],
        rows: Tensor | None = None,
    ) -> Tensor:
        runs = len(token_ids) <= native_step.MAX_ROWS and not self._counts_choices()
        layouts = [self._attention.decodes(each) for each in metadata] if runs else []
        decodes = [layout for layout in layouts if layout is not None]
        if not decodes:
            hidden: Tensor = self.decoder(token_ids, positions, attention, metadata, rows)
            return hidden
        hidden = self._layers.run(self.decoder.embedded(token_ids), positions, decodes)
        return self.norm.after(hidden if rows is None else hidden[rows], None)[0]

    def _counts_choices(self) -> bool:
        """True while the plain decoder must run, as each choice of experts is counted."""
        return any(experts.on_choice is not None for experts in self._experts)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.decoder.logits(hidden)

    def weight_map(self) -> WeightMap:
        return self.decoder.weight_map()


class CompiledLayers:
    """All layers of one decoder and their KV cache, as a table of addresses for the compiled kernels.

    The decoder and the cache must not replace their tensors while the table is in use.
    """

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._config = config = decoder.config
        self._cache = cache
        self._table = (LayerStruct * config.num_layers)(*(_layer(layer, cache) for layer in _layers_of(decoder)))
        windows = config.layer_groups.windows
        self._groups = (GroupStruct * len(windows))(*(GroupStruct(window=window or 0) for window in windows))
        self._buffers: list[Tensor] = []
        self._step = StepStruct(
            layers=ctypes.cast(self._table, ctypes.c_void_p),
            groups=ctypes.cast(self._groups, ctypes.c_void_p),
            num_groups=len(windows),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=cache.block_size,
            activation=_ACTIVATIONS[config.activation],
            gated=config.gated_mlp,
            parallel=config.block == "parallel",
            joint_norms=config.joint_qk_norm,
            eps=config.norm_eps,
            residual_scale=config.residual_scale if config.block == "scaled" else 1.0,
        )

    def run(self, hidden: Tensor, positions: Tensor, layouts: Sequence[DecodeLayout]) -> Tensor:
        """Run the layers for one new token per request. `layouts` has one layout per group of layers.

        Takes embeddings and returns the residual stream after the layers, both [requests, hidden_size]. May overwrite
        `hidden`.
        """
        stream, step = hidden.contiguous(), self._step
        self._reserve_buffers(len(stream))
        step.rows = len(stream)
        step.stream = stream.data_ptr()
        step.positions = positions.data_ptr()
        step.context_lens = layouts[0].context_lens.data_ptr()
        step.table_stride = layouts[0].block_tables.stride(0)
        for group, layout in zip(self._groups, layouts, strict=True):
            group.slots = layout.slots.data_ptr()
            group.block_tables = layout.block_tables.data_ptr()
        decode_layers(step, self._cache.data.dtype, self._table)
        return stream

    def _reserve_buffers(self, rows: int) -> None:
        """Allocate the buffers between the parts of a layer, unless those of an earlier step are large enough."""
        if self._buffers and len(self._buffers[0]) >= rows:
            return
        sizes = _buffer_sizes(self._config)
        types = {"chosen": torch.int32, "chosen_weights": torch.float32}
        dtype = self._cache.data.dtype
        self._buffers = [torch.empty(rows, size, dtype=types.get(name, dtype)) for name, size in sizes.items()]
        for name, tensor in zip(sizes, self._buffers, strict=True):
            setattr(self._step, name, tensor.data_ptr())


def _layers_of(decoder: Decoder) -> list[DecoderLayer]:
    return [cast(DecoderLayer, layer) for layer in decoder.layers]


def _buffer_sizes(config: ModelConfig) -> dict[str, int]:
    """Return the elements per row of each buffer, by its field in `StepStruct`."""
    query = config.num_heads * config.head_dim
    top_k = 0 if config.experts is None else config.experts.top_k
    return {
        "qkv": query + 2 * config.num_kv_heads * config.head_dim,
        "attended": query,
        "gate_up": (2 if config.gated_mlp else 1) * config.intermediate_size,
        "active": config.intermediate_size,
        "added": config.hidden_size,
        "chosen": top_k,
        "chosen_weights": top_k,
    }


def _fits(layer: DecoderLayer, dtype: torch.dtype) -> bool:
    """True if the kernels can read all weights of a layer."""
    if isinstance(layer.mlp, ExpertsMLP) and not _experts_fit(layer, layer.mlp, dtype):
        return False
    for linear in layer.modules():
        if not isinstance(linear, Linear):
            continue
        weight = linear.packed
        if not isinstance(weight, NativeWeight) or (weight.kind is WeightKind.PLAIN and weight.data.dtype != dtype):
            return False
    return True


def _experts_fit(layer: DecoderLayer, mlp: ExpertsMLP, dtype: torch.dtype) -> bool:
    """True if the kernels can run a layer's experts: no biases, no shared expert, no norm after them."""
    router = mlp.router.weight
    if mlp.shared is not None or mlp.spec.bias or mlp.is_partial or type(layer) not in (DecoderLayer, ScaledLayer):
        return False
    if router.dtype != dtype or not router.is_contiguous():
        return False
    return native_tables(dtype, mlp.gate_up.form, mlp.down.form, mlp.activation) is not None


def _layer(layer: DecoderLayer, cache: KVCache) -> LayerStruct:
    """Describe a layer and its part of the cache to the kernels."""
    attention = layer.attention
    spec, table = attention.spec, None if attention.rope is None else attention.rope.table
    before, after = _norms(layer)
    keys, values = cache.flat[attention.place.slot]
    described = LayerStruct(
        attention_norm=_norm(before[0]),
        mlp_norm=_norm(before[1]),
        after_attention=_norm(after[0]),
        after_mlp=_norm(after[1]),
        q_norm=None if attention.q_norm is None else attention.q_norm.weight.data_ptr(),
        k_norm=None if attention.k_norm is None else attention.k_norm.weight.data_ptr(),
        rope_table=None if table is None else table.data_ptr(),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        group=attention.place.group,
        scoring=scoring_struct(attention.layer.scoring, spec.head_dim),
        qkv=_weight(attention.qkv),
        output=_weight(attention.output),
    )
    _describe_mlp(layer.mlp, described)
    return described


def _describe_mlp(mlp: nn.Module, described: LayerStruct) -> None:
    """Fill in a layer's MLP or experts."""
    if isinstance(mlp, ExpertsMLP):
        router, spec = mlp.router, mlp.spec
        described.router = router_struct(router.weight, router.bias, normalized=spec.normalized)
        tables = native_tables(router.weight.dtype, mlp.gate_up.form, mlp.down.form, mlp.activation)
        assert tables is not None
        described.experts = experts_struct(*tables, spec.top_k, mlp.activation)
        return
    assert isinstance(mlp, (GatedMLP, MLP))
    described.gate_up = _weight(mlp.gate_up if isinstance(mlp, GatedMLP) else mlp.up)
    described.down = _weight(mlp.down)


_NormPair = tuple[RMSNorm | LayerNorm | None, RMSNorm | LayerNorm | None]
"""Norms of attention and of the MLP."""


def _norms(layer: DecoderLayer) -> tuple[_NormPair, _NormPair]:
    """Return the norms before attention and MLP, and those after them."""
    own = (layer.attention_norm, layer.mlp_norm)
    if isinstance(layer, SandwichLayer):
        return own, (layer.after_attention, layer.after_mlp)
    return ((None, None), own) if isinstance(layer, PostNormLayer) else (own, (None, None))


def _norm(norm: RMSNorm | LayerNorm | None) -> NormStruct:
    """Describe a norm, or that there is none, to the kernels."""
    if norm is None:
        return NormStruct()
    bias = getattr(norm, "bias", None)
    return NormStruct(norm.weight.data_ptr(), None if bias is None else bias.data_ptr(), isinstance(norm, LayerNorm))


def _weight(linear: Linear) -> WeightStruct:
    """Describe a packed linear layer to the kernels."""
    assert isinstance(linear.packed, NativeWeight)
    return linear.packed.struct(linear.bias)
