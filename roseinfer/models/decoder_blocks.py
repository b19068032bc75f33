"""Decoder layers by the place of their norms: before attention and MLP, after them, both, or before both at once.

Every layer takes and returns (hidden, residual), as `GatedMLP.after_norm` does.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from roseinfer.errors import ModelError
from roseinfer.models.attention import Attention
from roseinfer.models.experts import ExpertsMLP
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.mlp import MLP, GatedMLP
from roseinfer.models.model_config import BlockKind, ModelConfig
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
from roseinfer.models.rope import RotaryEmbedding
from roseinfer.models.step_attention import StepAttention
from roseinfer.models.weight_map import HasWeights, WeightMap, compose


def new_norm(config: ModelConfig, size: int | None = None) -> RMSNorm | LayerNorm:
    """Return a norm of the kind that the model has, over the hidden size or over `size` elements."""
    size = config.hidden_size if size is None else size
    if config.norm == "layer":
        return LayerNorm(size, config.norm_eps, bias=config.norm_bias)
    return RMSNorm(size, config.norm_eps)


def new_block(config: ModelConfig, index: int, rope: RotaryEmbedding | None) -> "DecoderLayer":
    """Return layer `index` of a model, of the kind that the config names."""
    return BLOCKS[config.block](config, index, rope)


class DecoderLayer(nn.Module):
    """Attention and MLP, each after a norm and added to the residual stream."""

    computes_rows: ClassVar[bool] = True
    """As a step's last layer, the layer returns `StepAttention.rows` only."""
    ends_partial: ClassVar[bool] = True
    """True if each of several ranks returns a summand of `hidden`, which the next norm joins."""

    def __init__(self, config: ModelConfig, index: int, rope: RotaryEmbedding | None = None) -> None:
        super().__init__()
        query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        hidden, eps, joint = config.hidden_size, config.norm_eps, config.joint_qk_norm
        parts = {"q_proj": query, "k_proj": key_value, "v_proj": key_value}
        has_qk_norm = config.qk_norm or joint
        self.attention_norm = new_norm(config)
        self.attention = Attention(
            index,
            config.layer_groups.places[index],
            config.attention_specs[index],
            FusedLinear(hidden, parts, bias=config.qkv_bias, stored_as="qkv_proj" if config.stores_fused_qkv else None),
            Linear(query, hidden, bias=config.output_bias),
            rope=rope,
            q_norm=RMSNorm(query if joint else config.head_dim, eps) if has_qk_norm else None,
            k_norm=RMSNorm(key_value if joint else config.head_dim, eps) if has_qk_norm else None,
            joint=joint,
        )
        self.mlp_norm = new_norm(config)
        self.mlp = _new_mlp(config, index)

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer."""
        hidden, residual = self.attention.after_norm(self.attention_norm, hidden, residual, step)
        return self.mlp.after_norm(self.mlp_norm, hidden, residual)

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        """Return the layer's norms whose input is the output of its attention or MLP."""
        return (self.mlp_norm,)

    def parts(self) -> dict[str, HasWeights]:
        """Return the modules with weights, by their names in Hugging Face checkpoints."""
        return {
            "input_layernorm": self.attention_norm,
            "post_attention_layernorm": self.mlp_norm,
            "self_attn": self.attention,
            "mlp": self.mlp,
        }

    def weight_map(self) -> WeightMap:
        """Map the layer's tensors to their slots."""
        # Fused projections come last: dummy weights are drawn in this order, and a seed must keep its values.
        slots = compose(self.parts())
        return dict(sorted(slots.items(), key=lambda item: isinstance(item[1].module, FusedLinear)))


class ScaledLayer(DecoderLayer):
    """A layer that scales the outputs of attention and MLP before it adds them (Granite)."""

    computes_rows = False

    def __init__(self, config: ModelConfig, index: int, rope: RotaryEmbedding | None = None) -> None:
        super().__init__(config, index, rope)
        self.residual_scale = config.residual_scale

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer."""
        normed, stream = self.attention_norm.after(hidden, residual)
        hidden = self.attention(normed, step) * self.residual_scale
        normed, stream = self.mlp_norm.after(hidden, stream)
        return self.mlp(normed) * self.residual_scale, stream


class PostNormLayer(DecoderLayer):
    """Norms after attention and MLP, before their outputs are added to the residual stream (OLMo 2)."""

    computes_rows = False
    ends_partial = False

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer."""
        stream = hidden if residual is None else hidden + residual
        stream = stream + self.attention_norm.after(self.attention(stream, step), None)[0]
        return self.mlp_norm.after(self.mlp(stream), None)[0], stream

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        """Return the layer's norms whose input is the output of its attention or MLP."""
        return self.attention_norm, self.mlp_norm

    def parts(self) -> dict[str, HasWeights]:
        """Return the modules with weights, by their names in Hugging Face checkpoints."""
        return {
            "post_attention_layernorm": self.attention_norm,
            "post_feedforward_layernorm": self.mlp_norm,
            "self_attn": self.attention,
            "mlp": self.mlp,
        }


class SandwichLayer(DecoderLayer):
    """Norms before and after attention and MLP (Gemma 2 and 3, GLM-4). Names are those of Gemma."""

    computes_rows = False
    ends_partial = False

    def __init__(self, config: ModelConfig, index: int, rope: RotaryEmbedding | None = None) -> None:
        super().__init__(config, index, rope)
        self.after_attention = new_norm(config)
        self.after_mlp = new_norm(config)

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer."""
        normed, stream = self.attention_norm.after(hidden, residual)
        hidden = self.after_attention.after(self.attention(normed, step), None)[0]
        normed, stream = self.mlp_norm.after(hidden, stream)
        return self.after_mlp.after(self.mlp(normed), None)[0], stream

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        """Return the layer's norms whose input is the output of its attention or MLP."""
        return self.after_attention, self.after_mlp

    def parts(self) -> dict[str, HasWeights]:
        """Return the modules with weights, by their names in Hugging Face checkpoints."""
        return {
            "input_layernorm": self.attention_norm,
            "post_attention_layernorm": self.after_attention,
            "pre_feedforward_layernorm": self.mlp_norm,
            "post_feedforward_layernorm": self.after_mlp,
            "self_attn": self.attention,
            "mlp": self.mlp,
        }


class ParallelLayer(DecoderLayer):
    """Attention and MLP side by side, on norms of the same stream (GPT-NeoX), or on one norm (Cohere)."""

    computes_rows = False

    def __init__(self, config: ModelConfig, index: int, rope: RotaryEmbedding | None = None) -> None:
        super().__init__(config, index, rope)
        self.shares_norm = config.shared_norm
        if config.shared_norm:
            self.mlp_norm = self.attention_norm

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer."""
        normed, stream = self.attention_norm.after(hidden, residual)
        attended = self.attention(normed, step)
        if not self.shares_norm:
            normed = self.mlp_norm.after(stream, None)[0]
        return attended + self.mlp(normed), stream

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        """Return no norm: attention and MLP add to one sum, which the next layer's norm joins."""
        return ()

    def parts(self) -> dict[str, HasWeights]:
        """Return the modules with weights, by their names in Hugging Face checkpoints."""
        parts = super().parts()
        if self.shares_norm:
            del parts["post_attention_layernorm"]
        return parts


BLOCKS: dict[BlockKind, type[DecoderLayer]] = {
    "pre_norm": DecoderLayer,
    "scaled": ScaledLayer,
    "post_norm": PostNormLayer,
    "sandwich": SandwichLayer,
    "parallel": ParallelLayer,
}
"""Layers by the name of their kind in a `ModelConfig`."""


def _new_mlp(config: ModelConfig, index: int) -> GatedMLP | MLP | ExpertsMLP:
    hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
    if config.experts is not None and config.experts.is_sparse(index):
        return ExpertsMLP(hidden, config.experts, config.activation)
    if config.gated_mlp:
        stored_as = "gate_up_proj" if config.stores_fused_gate_up else None
        return GatedMLP(hidden, intermediate, config.activation, bias=bias, stored_as=stored_as)
    if config.activation not in ("gelu", "gelu_tanh"):
        raise ModelError(f"{config.activation} in an MLP without a gate is not supported; supported: gelu, gelu_tanh")
    return MLP(hidden, intermediate, config.activation, bias=bias)
