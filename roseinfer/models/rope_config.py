"""Rotary positions in a model's own description: config.json of transformers 4 and 5, and GGUF."""

from collections.abc import Mapping
from typing import Any

from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rope,
    Scaling,
    YarnScaling,
)
from roseinfer.models.fields import optional, require, require_feature, size
from roseinfer.models.rope import yarn_magnitude

DEFAULT_THETA = 10000.0

_HF_SCALINGS = ("default", "linear", "dynamic", "yarn", "llama3")
_GGUF_SCALINGS = ("none", "linear", "yarn")
_GGUF_SCALING_KEYS = {
    "type",
    "factor",
    "original_context_length",
    "finetuned",  # provenance of the scaling, without effect
    "attn_factor",
    "yarn_ext_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
}


def rope_from_hf(raw: Mapping[str, Any]) -> tuple[Rope, int]:
    """Return the rotary positions in a config.json, and the context that they extend to.

    transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes both into `rope_parameters`.
    """
    fields: dict[str, Any] = {"rope_theta": raw.get("rope_theta"), **(raw.get("rope_scaling") or {})}
    fields |= {key: value for key, value in (raw.get("rope_parameters") or {}).items() if value is not None}
    if nested := [key for key, value in fields.items() if isinstance(value, Mapping)]:
        raise ModelError(f"RoPE parameters of their own for {nested[0]} are not supported; supported: one set for all")
    partial = optional(fields, "partial_rotary_factor", float, optional(raw, "partial_rotary_factor", float, 1.0))
    require_feature("partial_rotary_factor", partial, 1.0)
    context = size(raw, "max_position_embeddings")
    scaling = _hf_scaling(fields, raw, context)
    theta = optional(fields, "rope_theta", float, DEFAULT_THETA)
    return Rope(theta=theta, scaling=scaling), _scaled_context(context, scaling)


def rope_from_gguf(metadata: Mapping[str, Any], prefix: str, divisors: tuple[float, ...] | None) -> tuple[Rope, int]:
    """Return the rotary positions in the `{prefix}.rope.*` keys of a GGUF file, and the context that they extend to.

    `divisors` are the values of the tensor `rope_freqs.weight`, or None if the file has no such tensor.
    """
    context = size(metadata, f"{prefix}.context_length")
    scaling = _gguf_scaling(metadata, f"{prefix}.rope.scaling.", context, metadata.get(f"{prefix}.rope.scale_linear"))
    if divisors is not None:
        if scaling is not None:
            raise ModelError("RoPE scaling by both rope_freqs.weight and rope.scaling is not supported; supported: one")
        scaling = DivisorScaling(divisors=divisors)
    theta = optional(metadata, f"{prefix}.rope.freq_base", float, DEFAULT_THETA)
    return Rope(theta=theta, scaling=scaling), _scaled_context(context, scaling)


def _hf_scaling(fields: Mapping[str, Any], raw: Mapping[str, Any], context: int) -> Scaling | None:
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind not in _HF_SCALINGS:
        raise ModelError(f"RoPE scaling {kind!r} is not supported; supported: {', '.join(_HF_SCALINGS)}")
    if kind == "default":
        return None
    # Some models state the trained length outside of the RoPE parameters; transformers prefers that value.
    trained = raw.get("original_max_position_embeddings") or fields.get("original_max_position_embeddings")
    original = require(
        {"original_max_position_embeddings": trained or context}, "original_max_position_embeddings", int
    )
    if kind == "yarn":
        return _hf_yarn(fields, original, context)
    factor = _factor(fields, "factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    if kind == "dynamic":
        # transformers uses no other original length for dynamic scaling.
        return DynamicScaling(factor=factor, original_context=context)
    return Llama3Scaling(
        factor=factor,
        low_freq_factor=require(fields, "low_freq_factor", float),
        high_freq_factor=require(fields, "high_freq_factor", float),
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


def _gguf_scaling(metadata: Mapping[str, Any], prefix: str, context: int, linear: float | None) -> Scaling | None:
    """Return the scaling by llama.cpp's rules: no type means linear; no factor, or 0, means no scaling."""
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    if unknown := sorted(fields.keys() - _GGUF_SCALING_KEYS):
        raise ModelError(f"{prefix}{unknown[0]} is not supported; supported: {', '.join(sorted(_GGUF_SCALING_KEYS))}")
    kind = fields.get("type", "linear")
    if kind not in _GGUF_SCALINGS:
        raise ModelError(f"RoPE scaling {kind!r} is not supported in GGUF; supported: {', '.join(_GGUF_SCALINGS)}")
    require_feature(f"{prefix}attn_factor", fields.get("attn_factor", 1.0), 1.0)
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
        attention_factor=yarn_magnitude(factor),
        beta_fast=optional(fields, "yarn_beta_fast", float, 32.0),
        beta_slow=optional(fields, "yarn_beta_slow", float, 1.0),
    )


def _scaled_context(context: int, scaling: Scaling | None) -> int:
    """Return the context with the scaling applied.

    With linear scaling, max_position_embeddings is the unscaled length (as transformers 4 documents). With YaRN it may
    be the unscaled or the scaled length, and with llama3 it is the scaled length. Dynamic scaling applies to longer
    contexts.
    """
    if isinstance(scaling, LinearScaling):
        return int(context * scaling.factor)
    if isinstance(scaling, YarnScaling):
        return max(context, int(scaling.original_context * scaling.factor))
    return context


def _factor(fields: Mapping[str, Any], key: str) -> float:
    factor = require(fields, key, float)
    if not factor > 0:
        raise ModelError(f"RoPE scaling by a factor of {factor} is not supported; supported: above 0")
    return factor
