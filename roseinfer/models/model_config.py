"""The shape of a decoder-only language model, independent of the file format."""

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from roseinfer.cache.layer_groups import LayerGroups, layer_groups
from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import AttentionSpec, DynamicScaling, LongRopeScaling, Rope
from roseinfer.model_files import quoted
from roseinfer.models.activation_names import ActivationName
from roseinfer.models.experts_spec import ExpertsSpec

BlockKind = Literal["pre_norm", "scaled", "post_norm", "sandwich", "parallel"]
"""Kind of decoder layer, see `roseinfer/models/decoder_blocks.py`."""

LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "num_layers": 10_000,
    "num_heads": 1 << 14,
    "num_kv_heads": 1 << 14,
    "head_dim": 1 << 14,
    "intermediate_size": 1 << 22,
    "max_position_embeddings": 1 << 26,
}
"""Maximum of each size. A description above them is damaged: the largest published models are far below."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Architecture and sizes of one model. Sizes count elements; `head_dim` need not be hidden_size / num_heads."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    """Maximum tokens per request: the context, extended by those RoPE scalings that have a fixed length."""
    norm_eps: float
    tie_word_embeddings: bool
    rope: Rope | None = None
    """Rotary positions of all layers. None: learned positions."""
    activation: ActivationName = "silu"
    sliding_window: int | None = None
    """Window of all layers: a token attends to itself and to sliding_window - 1 tokens before it. None: no window."""
    layer_attention: tuple[AttentionSpec, ...] = ()
    """Attention of each layer, for models whose layers differ. Empty: all layers have `rope` and `sliding_window`."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    """Normalize each query and key head before its rotation."""
    joint_qk_norm: bool = False
    """Normalize all query heads of a token together, and all key heads, before the rotation."""
    norm: Literal["rms", "layer"] = "rms"
    block: BlockKind = "pre_norm"
    gated_mlp: bool = True
    """The MLP has a gate: down(activation(gate x) * (up x)). Without: down(activation(up x))."""
    experts: ExpertsSpec | None = None
    """Experts in place of the MLPs, in all layers but `ExpertsSpec.dense_layers`. None: every layer has an MLP."""
    shared_norm: bool = False
    """In "parallel" blocks, attention and MLP read the output of the same norm."""
    stores_fused_qkv: bool = False
    """Checkpoints store query, key and value projection as one tensor."""
    stores_fused_gate_up: bool = False
    embedding_scale: float = 1.0
    """Factor on the token embeddings."""
    residual_scale: float = 1.0
    """In "scaled" blocks, the factor on the outputs of attention and MLP before they are added."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    """Bound c of the logits: c * tanh(logit / c)."""

    def __post_init__(self) -> None:
        """Raise ModelError for sizes that contradict each other, and for constants that no model can have."""
        for name, limit in LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ModelError(f"{name} {quoted(getattr(self, name))} is not supported; supported: 1 to {limit}")
        if not 0 <= self.norm_eps < 1:
            raise ModelError(f"a norm with an epsilon of {self.norm_eps} is not supported; supported: 0 to 1")
        if self.num_heads % self.num_kv_heads:
            raise ModelError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly")
        if self.layer_attention and len(self.layer_attention) != self.num_layers:
            raise ModelError(f"attention is given for {len(self.layer_attention)} of {self.num_layers} layers")
        shape = (self.num_heads, self.num_kv_heads, self.head_dim)
        for spec in set(self.attention_specs):
            if (spec.num_heads, spec.num_kv_heads, spec.head_dim) != shape:
                raise ModelError("layers with different numbers or sizes of heads are not supported")
            if spec.rope is not None and self.head_dim % 2:
                raise ModelError(f"rotary positions need an even head_dim, not {self.head_dim}")
            if spec.rope is not None and not 0 < spec.rope.theta < math.inf:
                raise ModelError(f"a RoPE base of {spec.rope.theta} is not supported; supported: above 0")
            if spec.window is not None and spec.window < 1:
                raise ModelError(f"sliding_window = {spec.window} is not supported; supported: 1 or more, or none")

    @property
    def attention_specs(self) -> tuple[AttentionSpec, ...]:
        """Attention spec of each layer."""
        if self.layer_attention:
            return self.layer_attention
        spec = AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            window=self.sliding_window,
            rope=self.rope,
        )
        return (spec,) * self.num_layers

    def with_attention(self, change: Callable[[int, AttentionSpec], AttentionSpec]) -> "ModelConfig":
        """Return the config with the attention of each layer changed by a function of the layer's index and spec."""
        specs = tuple(change(index, spec) for index, spec in enumerate(self.attention_specs))
        return msgspec.structs.replace(self, sliding_window=None, layer_attention=specs)

    @property
    def longest_context(self) -> int:
        """Largest context that an engine may be built for.

        It exceeds the model's context only with dynamic scaling and LongRoPE.
        """

        def reach(rope: Rope) -> int:
            if isinstance(rope.scaling, LongRopeScaling):
                return rope.scaling.extended_context
            factor = rope.scaling.factor if isinstance(rope.scaling, DynamicScaling) else 1.0
            return int(self.max_position_embeddings * factor)

        ropes = [spec.rope for spec in self.attention_specs if spec.rope is not None]
        return min(map(reach, ropes), default=self.max_position_embeddings)

    @property
    def idle_parameters(self) -> int:
        """Number of parameters of experts that a token does not use, over all layers; 0 for models without experts."""
        spec = self.experts
        if spec is None:
            return 0
        num_layers = sum(map(spec.is_sparse, range(self.num_layers)))
        parameters = 3 * self.hidden_size * spec.intermediate_size
        if spec.bias:
            parameters += 2 * spec.intermediate_size + self.hidden_size
        return num_layers * (spec.num_experts - spec.top_k) * parameters

    def limited_to(self, num_tokens: int) -> "ModelConfig":
        """Return the config for requests of at most `num_tokens` tokens. Learned positions are unchanged."""
        if all(spec.rope is None for spec in self.attention_specs):
            return self
        return msgspec.structs.replace(self, max_position_embeddings=num_tokens)

    @property
    def layer_groups(self) -> LayerGroups:
        """Groups of layers that share block tables. A window that no request exceeds is as good as none."""
        longest = self.max_position_embeddings
        windows = (spec.window for spec in self.attention_specs)
        return layer_groups(tuple(None if window is None or window >= longest else window for window in windows))

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Return the bytes of one token's keys and values, over all layers."""
        return self.num_layers * self.layer_kv_bytes(element_bytes)

    def layer_kv_bytes(self, element_bytes: int) -> int:
        """Return the bytes of one token's keys and values in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * element_bytes
