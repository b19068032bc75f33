"""The shape of a decoder-only language model, whatever file it was read from."""

import msgspec

from roseinfer.errors import ModelError
from roseinfer.models.activation_names import ActivationName
from roseinfer.models.rope import DynamicScaling, Rope


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One architecture's shape. Sizes count elements; `head_dim` need not be hidden_size / num_heads."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    """The context: most tokens that a request may have, stretched by RoPE scaling where that has a fixed length."""
    norm_eps: float
    tie_word_embeddings: bool
    rope: Rope | None = None
    """None for architectures with learned positions."""
    activation: ActivationName = "silu"
    sliding_window: int | None = None
    """A token attends to itself and to sliding_window - 1 tokens before it; None: to all."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    """Queries and keys are normalized, head by head, before they are rotated."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.num_heads % self.num_kv_heads:
            raise ModelError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly")
        if self.rope is not None and self.head_dim % 2:
            raise ModelError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ModelError(f"sliding_window = {self.sliding_window} is not supported; supported: 1 or more, or none")

    @property
    def longest_context(self) -> int:
        """Most tokens of a request that an engine may be built for; more than the context with dynamic scaling only."""
        if self.rope is not None and isinstance(self.rope.scaling, DynamicScaling):
            return int(self.max_position_embeddings * self.rope.scaling.factor)
        return self.max_position_embeddings

    def limited_to(self, num_tokens: int) -> "ModelConfig":
        """The same model for requests of at most `num_tokens` tokens; learned positions stay as they are."""
        return self if self.rope is None else msgspec.structs.replace(self, max_position_embeddings=num_tokens)

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of keys and values that one token keeps, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes
