"""The attention of one layer as plain data: heads, window, scale and rotary positions.

Models state one `AttentionSpec` per layer. Every attention backend reads the spec of the layer that it runs.
"""

from typing import NamedTuple

import msgspec
from torch import Tensor


class LinearScaling(msgspec.Struct, frozen=True, kw_only=True, tag="linear"):
    """Position interpolation (Chen et al., 2023, https://arxiv.org/abs/2306.15595)."""

    factor: float


class DynamicScaling(msgspec.Struct, frozen=True, kw_only=True, tag="dynamic"):
    """NTK-aware scaling: the base grows with the context (bloc97 and emozilla, 2023; as in transformers)."""

    factor: float
    original_context: int


class YarnScaling(msgspec.Struct, frozen=True, kw_only=True, tag="yarn"):
    """YaRN: interpolate low frequencies, keep high ones (Peng et al., 2023, https://arxiv.org/abs/2309.00071)."""

    factor: float
    original_context: int
    attention_factor: float
    """Factor on rotated queries and keys: sqrt(1/t) in the paper."""
    beta_fast: float = 32.0
    """Frequencies with more rotations than this over the original context stay unscaled."""
    beta_slow: float = 1.0
    """Frequencies with fewer rotations than this over the original context are interpolated."""
    truncate: bool = True
    """Round the bounds between unscaled and interpolated frequencies to whole dimensions."""


class Llama3Scaling(msgspec.Struct, frozen=True, kw_only=True, tag="llama3"):
    """Llama 3.1: interpolate long wavelengths, keep short ones (https://arxiv.org/abs/2407.21783, Meta's code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class DivisorScaling(msgspec.Struct, frozen=True, kw_only=True, tag="divisors"):
    """A divisor per frequency: GGUF files store llama3 scaling this way, in the tensor `rope_freqs.weight`."""

    divisors: tuple[float, ...]


class LongRopeScaling(msgspec.Struct, frozen=True, kw_only=True, tag="longrope"):
    """LongRoPE: a divisor per frequency, from one list up to the trained context and from another beyond it.

    Ding et al., 2024, https://arxiv.org/abs/2402.13753.
    """

    short_divisors: tuple[float, ...]
    long_divisors: tuple[float, ...]
    original_context: int
    """Longest context, in tokens, that `short_divisors` apply to."""
    extended_context: int
    """Longest context that `long_divisors` reach."""
    attention_factor: float
    """Factor on rotated queries and keys."""


Scaling = LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | DivisorScaling | LongRopeScaling


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary positions: the base of the frequencies, and how they are scaled to a longer context."""

    theta: float
    scaling: Scaling | None = None
    rotary_dim: int | None = None
    """Number of elements of a head that are rotated, an even number. None: all of them.

    Loading moves them, half of them to the start of each half of a head (`roseinfer/models/head_layout.py`).
    """


class Scoring(NamedTuple):
    """The way from the products of queries and keys to attention weights, for attention kernels."""

    scale: float | None = None
    """Factor on the products, positive. None: head_dim ** -0.5."""
    window: int | None = None
    """Sliding window: a token attends to itself and to the window - 1 tokens before it. None: no window."""
    softcap: float | None = None
    """Bound c of the scaled products s: the scores are c * tanh(s / c) (Gemma 2). None: the scores are s."""
    sinks: Tensor | None = None
    """Score of each head's sink, [heads], float32 or, for float64 queries, float64. A sink takes part in the softmax
    like a key whose value is 0 (gpt-oss). None: no sinks."""

    def scale_for(self, head_dim: int) -> float:
        """Return `scale`, or its default for heads of this size."""
        return head_dim**-0.5 if self.scale is None else self.scale


PLAIN_SCORING = Scoring()
"""Scores with the default scale, without window, bound and sinks."""


class AttentionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Attention parameters of one layer."""

    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key-value heads. num_heads / num_kv_heads query heads share one."""
    head_dim: int
    window: int | None = None
    """Sliding window: a token attends to itself and to the window - 1 tokens before it. None: no window."""
    scale: float | None = None
    """Factor on attention scores. None: head_dim ** -0.5."""
    softcap: float | None = None
    """Bound c of the scaled scores s: c * tanh(s / c). None: no bound."""
    sinks: bool = False
    """Each head has a sink: a learned score that takes part in the softmax and has no value."""
    rope: Rope | None = None
    """Rotary positions. None: queries and keys are not rotated."""

    @property
    def scoring(self) -> Scoring:
        """Scale, window and bound of the scores, without the sinks, which are weights."""
        return Scoring(self.scale, self.window, self.softcap)
