"""The shape of a decoder-only language model, whatever file it was read from."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from roseinfer.errors import ModelError

T = TypeVar("T")


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
    norm_eps: float
    tie_word_embeddings: bool
    rope_theta: float | None = None
    """None for architectures with learned positions."""
    sliding_window: int | None = None
    """A token attends to itself and to sliding_window - 1 tokens before it; None: to all."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of keys and values that one token keeps, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


def require(raw: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """The value of `key` in a model's own metadata; ModelError when it is missing or of another type."""
    value = raw.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {value!r}"
        raise ModelError(f"the model's config needs {key} as {kind.__name__}, but it {found}")
    return value
