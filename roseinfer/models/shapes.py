"""Built-in shapes for speed measurements with dummy weights. Each has the sizes of the public model of that name."""

import math
from typing import Any

import msgspec

from roseinfer.kernels.attention.attention_spec import AttentionSpec, LinearScaling, Llama3Scaling, Rope, YarnScaling
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope import yarn_magnitude


def _llama(**sizes: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "architecture": "llama",
        "vocab_size": 128256,
        "num_kv_heads": 8,
        "max_position_embeddings": 131072,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope": Rope(
            theta=500000.0,
            scaling=Llama3Scaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192),
        ),
    }
    return ModelConfig(**fields | sizes)


def _qwen3(**sizes: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "architecture": "qwen3",
        "vocab_size": 151936,
        "num_kv_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope": Rope(theta=1000000.0),
        "qk_norm": True,
    }
    return ModelConfig(**fields | sizes)


def _gemma3(*, num_layers: int, window: int, **sizes: Any) -> ModelConfig:
    full = Rope(theta=1_000_000.0, scaling=LinearScaling(factor=8.0))
    spec = AttentionSpec(
        num_heads=sizes["num_heads"], num_kv_heads=sizes["num_kv_heads"], head_dim=256, scale=256**-0.5, rope=full
    )
    local = msgspec.structs.replace(spec, window=window, rope=Rope(theta=10_000.0))
    fields: dict[str, Any] = {
        "architecture": "gemma3_text",
        "vocab_size": 262208,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope": full,
        "activation": "gelu_tanh",
        "qk_norm": True,
        "block": "sandwich",
        "embedding_scale": math.sqrt(sizes["hidden_size"]),
        "layer_attention": tuple(local if (index + 1) % 6 else spec for index in range(num_layers)),
    }
    return ModelConfig(num_layers=num_layers, **fields | sizes)


def _qwen3_moe(*, experts: ExpertsSpec, **sizes: Any) -> ModelConfig:
    dense = _qwen3(intermediate_size=6144, **sizes)
    return msgspec.structs.replace(dense, architecture="qwen3_moe", num_kv_heads=4, experts=experts)


def _gpt_oss(*, num_layers: int, num_heads: int, **sizes: Any) -> ModelConfig:
    rope = Rope(
        theta=150_000.0,
        scaling=YarnScaling(factor=32.0, original_context=4096, attention_factor=yarn_magnitude(32.0), truncate=False),
    )
    full = AttentionSpec(num_heads=num_heads, num_kv_heads=8, head_dim=64, sinks=True, rope=rope)
    local = msgspec.structs.replace(full, window=128)
    fields: dict[str, Any] = {
        "architecture": "gpt_oss",
        "vocab_size": 201088,
        "num_kv_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope": rope,
        "activation": "clamped_swiglu",
        "qkv_bias": True,
        "output_bias": True,
        "layer_attention": tuple(full if index % 2 else local for index in range(num_layers)),
    }
    return ModelConfig(num_layers=num_layers, num_heads=num_heads, **fields | sizes)


SHAPES: dict[str, ModelConfig] = {
    "gemma-3-4b": _gemma3(
        num_layers=34, window=1024, hidden_size=2560, num_heads=8, num_kv_heads=4, intermediate_size=10240
    ),
    "gpt2": ModelConfig(
        architecture="gpt2",
        vocab_size=50257,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        intermediate_size=3072,
        max_position_embeddings=1024,
        norm_eps=1e-5,
        tie_word_embeddings=True,
        activation="gelu_tanh",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        norm_bias=True,
    ),
    "gpt-oss-20b": _gpt_oss(
        hidden_size=2880,
        num_layers=24,
        num_heads=64,
        intermediate_size=2880,
        experts=ExpertsSpec(num_experts=32, top_k=4, intermediate_size=2880, bias=True),
    ),
    "llama-3.2-1b": _llama(hidden_size=2048, num_layers=16, num_heads=32, head_dim=64, intermediate_size=8192),
    "llama-3.2-3b": _llama(hidden_size=3072, num_layers=28, num_heads=24, head_dim=128, intermediate_size=8192),
    "llama-3-8b": _llama(
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        head_dim=128,
        intermediate_size=14336,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        rope=Rope(theta=500000.0),
    ),
    "phi-4-mini": ModelConfig(
        architecture="phi3",
        vocab_size=200064,
        hidden_size=3072,
        num_layers=32,
        num_heads=24,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=8192,
        max_position_embeddings=131072,
        norm_eps=1e-5,
        tie_word_embeddings=True,
        rope=Rope(theta=10_000.0, rotary_dim=96),  # without LongRoPE, whose divisors change no speed
        stores_fused_qkv=True,
        stores_fused_gate_up=True,
    ),
    "qwen3-0.6b": _qwen3(
        hidden_size=1024, num_layers=28, num_heads=16, intermediate_size=3072, tie_word_embeddings=True
    ),
    "qwen3-14b": _qwen3(hidden_size=5120, num_layers=40, num_heads=40, intermediate_size=17408),
    "qwen3-30b-a3b": _qwen3_moe(
        hidden_size=2048,
        num_layers=48,
        num_heads=32,
        experts=ExpertsSpec(num_experts=128, top_k=8, intermediate_size=768),
    ),
    "qwen3-32b": _qwen3(hidden_size=5120, num_layers=64, num_heads=64, intermediate_size=25600),
}
"""Shapes by the name that `--model` takes together with `--load-format dummy`."""
