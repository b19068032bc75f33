"""Rotary positions in a model's own description: config.json of transformers 4 and 5, and GGUF."""

import math
from collections.abc import Mapping
from typing import Any

from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from roseinfer.model_files import quoted
from roseinfer.models.fields import optional, require, require_feature, size
from roseinfer.models.rope import yarn_magnitude

DEFAULT_THETA = 10000.0

_DIVISORS, _SHORT, _LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (_DIVISORS, _SHORT, _LONG)
"""Tensors of a GGUF file that hold divisors of rotary frequencies."""

_HF_SCALINGS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_GGUF_SCALINGS = ("none", "linear", "yarn")
_GGUF_SCALING_KEYS = {
    "type",
    "factor",
    "original_context_length",
    "finetuned",  # provenance of the scaling, without effect
    "attn_factor",
    "yarn_attn_factor",  # llama.cpp reads it for Grok only
    "yarn_ext_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
}


def rope_from_hf(
    raw: Mapping[str, Any],
    *,
    layer_type: str | None = None,
    partial: float | None = None,
    default_theta: float = DEFAULT_THETA,
) -> tuple[Rope, int]:
    """Return the rotary positions in a config.json, and the context that they extend to.

    transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes both into `rope_parameters`, for some
    models once per type of layer: `layer_type` is the type to read. `partial` is the default share of a head that is
    rotated, for models that may rotate part of it; None: models that rotate all of it.
    """
    fields: dict[str, Any] = {"rope_theta": raw.get("rope_theta"), **optional(raw, "rope_scaling", dict, {})}
    parameters = optional(raw, "rope_parameters", dict, {})
    if layer_type is not None and isinstance(parameters.get(layer_type), Mapping):
        parameters = parameters[layer_type]
    fields |= {key: value for key, value in parameters.items() if value is not None}
    if nested := [key for key, value in fields.items() if isinstance(value, Mapping)]:
        raise ModelError(f"RoPE parameters of their own for {nested[0]} are not supported; supported: one set for all")
    context = size(raw, "max_position_embeddings")
    scaling = _hf_scaling(fields, raw, context)
    rope = Rope(
        theta=optional(fields, "rope_theta", float, default_theta),
        scaling=scaling,
        rotary_dim=_rotary_dim(fields, raw, partial),
    )
    return rope, _scaled_context(context, scaling)


def _rotary_dim(fields: Mapping[str, Any], raw: Mapping[str, Any], partial: float | None) -> int | None:
    """Return how many elements of a head are rotated, or None for all of them."""
    stated = optional(raw, "partial_rotary_factor", float, optional(raw, "rotary_pct", float, partial or 1.0))
    share = optional(fields, "partial_rotary_factor", float, stated)
    if partial is None:
        require_feature("partial_rotary_factor", share, 1.0)
    head_dim = optional(raw, "head_dim", int, 0) or size(raw, "hidden_size") // size(raw, "num_attention_heads")
    rotary_dim = int(head_dim * share)
    if rotary_dim == head_dim:
        return None
    if not 0 < rotary_dim < head_dim or rotary_dim % 2:
        raise ModelError(
            f"partial_rotary_factor {share} of head_dim {head_dim} is not supported; supported: even sizes"
        )
    return rotary_dim


def rope_from_gguf(
    metadata: Mapping[str, Any], prefix: str, factors: Mapping[str, tuple[float, ...]]
) -> tuple[Rope, int]:
    """Return the rotary positions in the `{prefix}.rope.*` keys of a GGUF file, and the context that they extend to.

    `factors` are the values of those ROPE_TENSORS that the file has, by name.
    """
    context = size(metadata, f"{prefix}.context_length")
    theta = optional(metadata, f"{prefix}.rope.freq_base", float, DEFAULT_THETA)
    if _SHORT in factors and _LONG in factors:
        scaling: Scaling | None = _gguf_longrope(metadata, f"{prefix}.rope.scaling.", context, factors)
        return Rope(theta=theta, scaling=scaling), _scaled_context(context, scaling)
    scaling = _gguf_scaling(metadata, f"{prefix}.rope.scaling.", context, metadata.get(f"{prefix}.rope.scale_linear"))
    if _DIVISORS in factors:
        if scaling is not None:
            raise ModelError("RoPE scaling by both rope_freqs.weight and rope.scaling is not supported; supported: one")
        scaling = DivisorScaling(divisors=factors[_DIVISORS])
    return Rope(theta=theta, scaling=scaling), _scaled_context(context, scaling)


def _gguf_longrope(
    metadata: Mapping[str, Any], prefix: str, context: int, factors: Mapping[str, tuple[float, ...]]
) -> LongRopeScaling:
    original = size(metadata, f"{prefix}original_context_length", context)
    return LongRopeScaling(
        short_divisors=factors[_SHORT],
        long_divisors=factors[_LONG],
        original_context=original,
        extended_context=context,
        attention_factor=optional(
            metadata, f"{prefix}attn_factor", float, longrope_magnitude(context / original, original)
        ),
    )


def _hf_scaling(fields: Mapping[str, Any], raw: Mapping[str, Any], context: int) -> Scaling | None:
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind == "su" or (kind == "yarn" and "long_factor" in fields):
        kind = "longrope"  # its names in early checkpoints of Phi-3
    if kind not in _HF_SCALINGS:
        raise ModelError(f"RoPE scaling {quoted(kind)} is not supported; supported: {', '.join(_HF_SCALINGS)}")
    if kind == "default":
        return None
    # Some models state the trained length outside of the RoPE parameters; transformers prefers that value.
    trained = raw.get("original_max_position_embeddings") or fields.get("original_max_position_embeddings")
    original = require(
        {"original_max_position_embeddings": trained or context}, "original_max_position_embeddings", int
    )
    if kind == "yarn":
        return _hf_yarn(fields, original, context)
    if kind == "longrope":
        return _hf_longrope(fields, raw, original, context)
    factor = _factor(fields, "factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    if kind == "dynamic":
        # transformers uses no other original length for dynamic scaling.
        return DynamicScaling(factor=factor, original_context=context)
    low, high = require(fields, "low_freq_factor", float), require(fields, "high_freq_factor", float)
    if not 0 < low < high:
        raise ModelError(f"RoPE scaling with low_freq_factor {low} and high_freq_factor {high} is not supported")
    return Llama3Scaling(
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=original,
    )


def _hf_yarn(fields: Mapping[str, Any], original: int, context: int) -> YarnScaling:
    factor = _factor(fields, "factor") if fields.get("factor") is not None else context / original
    magnitude = yarn_magnitude(factor)
    if fields.get("mscale") and fields.get("mscale_all_dim"):
        weights = require(fields, "mscale", float), require(fields, "mscale_all_dim", float)
        magnitude = yarn_magnitude(factor, weights[0]) / yarn_magnitude(factor, weights[1])
    return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=optional(fields, "attention_factor", float, magnitude),
        beta_fast=optional(fields, "beta_fast", float, 32.0),
        beta_slow=optional(fields, "beta_slow", float, 1.0),
        truncate=optional(fields, "truncate", bool, True),
    )


def _hf_longrope(fields: Mapping[str, Any], raw: Mapping[str, Any], original: int, context: int) -> LongRopeScaling:
    short, long = (_divisors(fields, key) for key in ("short_factor", "long_factor"))
    head_dim = optional(raw, "head_dim", int, 0) or size(raw, "hidden_size") // size(raw, "num_attention_heads")
    pairs = (_rotary_dim(fields, raw, 1.0) or head_dim) // 2
    if len(short) != pairs or len(long) != pairs:
        raise ModelError(
            f"longrope needs {pairs} short_factor and long_factor values, not {len(short)} and {len(long)}"
        )
    factor = optional(fields, "factor", float, context / original)
    return LongRopeScaling(
        short_divisors=short,
        long_divisors=long,
        original_context=original,
        extended_context=context,
        attention_factor=optional(fields, "attention_factor", float, longrope_magnitude(factor, original)),
    )


def longrope_magnitude(factor: float, original_context: int) -> float:
    """Return LongRoPE's factor on queries and keys for contexts extended by `factor` (section 3.3 of the paper)."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def _divisors(fields: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = require(fields, key, list)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values):
        raise ModelError(f"{key} must be a list of numbers above 0")
    return tuple(map(float, values))


def _gguf_scaling(metadata: Mapping[str, Any], prefix: str, context: int, linear: float | None) -> Scaling | None:
    """Return the scaling by llama.cpp's rules: no type means linear; no factor, or 0, means no scaling."""
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    if unknown := sorted(fields.keys() - _GGUF_SCALING_KEYS):
        raise ModelError(f"{prefix}{unknown[0]} is not supported; supported: {', '.join(sorted(_GGUF_SCALING_KEYS))}")
    kind = fields.get("type", "linear")
    if kind not in _GGUF_SCALINGS:
        raise ModelError(
            f"RoPE scaling {quoted(kind)} is not supported in GGUF; supported: {', '.join(_GGUF_SCALINGS)}"
        )
    attention_factor = optional(fields, "attn_factor", float, 1.0)
    if kind != "yarn":
        require_feature(f"{prefix}attn_factor", attention_factor, 1.0)
    factor = fields.get("factor") or linear or 1.0
    if kind == "none" or factor == 1.0:
        return None
    factor = _factor({"factor": factor}, "factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    require_feature(f"{prefix}yarn_ext_factor", fields.get("yarn_ext_factor", 1.0), 1.0)
    return YarnScaling(
        factor=factor,
        original_context=optional(fields, "original_context_length", int, context),
        attention_factor=attention_factor * yarn_magnitude(factor),
        beta_fast=optional(fields, "yarn_beta_fast", float, 32.0),
        beta_slow=optional(fields, "yarn_beta_slow", float, 1.0),
    )


def _scaled_context(context: int, scaling: Scaling | None) -> int:
    """Return the context with the scaling applied.

    With linear scaling, max_position_embeddings is the unscaled length (as transformers 4 documents). With YaRN it may
    be the unscaled or the scaled length, and with llama3 it is the scaled length. Dynamic scaling applies to longer
    contexts, and so do LongRoPE's divisors for long ones: without --max-model-len, the context is the trained one.
    """
    if isinstance(scaling, LinearScaling):
        return int(context * scaling.factor)
    if isinstance(scaling, YarnScaling):
        return max(context, int(scaling.original_context * scaling.factor))
    if isinstance(scaling, LongRopeScaling):
        return min(context, scaling.original_context)
    return context


def _factor(fields: Mapping[str, Any], key: str) -> float:
    factor = require(fields, key, float)
    if not factor > 0:
        raise ModelError(f"RoPE scaling by a factor of {factor} is not supported; supported: above 0")
    return factor
