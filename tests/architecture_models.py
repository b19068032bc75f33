"""Tiny random models of every architecture and RoPE scaling, built by transformers, without tokenizers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stepping import run_traced
from torch import Tensor

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine

VOCAB_SIZE = 64
TRAINED_CONTEXT = 24
"""Context length in tokens before RoPE scaling. The tests use longer contexts."""

DECODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    # Large enough that logits differ clearly.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SCALED = {"original_max_position_embeddings": TRAINED_CONTEXT, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, **SCALED}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALED}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
WIDE = {"head_dim": 32}
"""Enough RoPE frequencies that each scaling leaves some unchanged, scales some, and interpolates others."""
LAYER_NORM = {"layer_norm_eps": 1e-3}
"""Large enough that an eps of another size shows."""

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied head": {"tie_word_embeddings": True},
    "llama, head_dim apart from hidden size": {"head_dim": 12},
    "llama, all biases": {"attention_bias": True, "mlp_bias": True},
    "llama, llama3": {**WIDE, "rope_parameters": LLAMA3},
    "llama, linear": {**WIDE, "max_position_embeddings": TRAINED_CONTEXT, "rope_parameters": LINEAR},
    "llama, yarn": {**WIDE, "rope_parameters": YARN},
    "llama, yarn over a short config": {
        **WIDE,
        "max_position_embeddings": TRAINED_CONTEXT,
        "rope_parameters": {**YARN, "beta_fast": 2.0, "beta_slow": 0.5, "truncate": False},
    },
    "llama, yarn with mscale": {**WIDE, "rope_parameters": {**YARN, "mscale": 1.5, "mscale_all_dim": 0.5}},
    "llama, yarn with attention_factor": {**WIDE, "rope_parameters": {**YARN, "attention_factor": 1.25}},
    "llama, dynamic": {**WIDE, "rope_parameters": DYNAMIC},
    "mistral": {"sliding_window": None},
    "mistral, sliding window": {"sliding_window": 9},
    "mistral, sliding window and yarn": {**WIDE, "sliding_window": 9, "rope_parameters": YARN},
    "qwen2": {"head_dim": None},
    "qwen2, tied head": {"head_dim": None, "tie_word_embeddings": True},
    "qwen2, sliding window": {
        "head_dim": None,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 0,
    },
    "qwen2, sliding window in no layer": {
        "head_dim": None,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 2,
    },
    "qwen2, yarn": {"head_dim": None, "hidden_size": 64, "rope_parameters": YARN},
    "qwen3": {},
    "qwen3, head_dim apart from hidden size": {"head_dim": 24, "tie_word_embeddings": True},
    "qwen3, attention bias": {"attention_bias": True},
    "qwen3, yarn": {**WIDE, "rope_parameters": YARN},
    "ministral": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2, windows in some layers": {
        "head_dim": None,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
    "cohere": {"logit_scale": 0.5, **LAYER_NORM},
    "cohere, attention bias": {"attention_bias": True, "tie_word_embeddings": False, **LAYER_NORM},
    "cohere2": {"num_hidden_layers": 4, "head_dim": None, "sliding_window": 9, **LAYER_NORM},
    "exaone4": {"num_hidden_layers": 4, "sliding_window": 9},
    "exaone4, no windows": {"sliding_window": None, "layer_types": ["full_attention"] * 2, "rope_parameters": LLAMA3},
    "gemma": {"head_dim": 12},
    # The bounds are so small that they change every score and logit.
    "gemma2": {
        "num_hidden_layers": 3,
        "sliding_window": 9,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma2, unbounded": {
        "num_hidden_layers": 1,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": True,
    },
    "gemma3_text": {"num_hidden_layers": 6, "sliding_window": 9, "query_pre_attn_scalar": 5, "vocab_size": VOCAB_SIZE},
    "gemma3_text, bounded logits": {"final_logit_softcapping": 2.0, "num_hidden_layers": 1},
    "gemma3_text, scaled rotation": {
        **WIDE,
        "num_hidden_layers": 6,
        "sliding_window": 9,
        "max_position_embeddings": TRAINED_CONTEXT,
        "rope_parameters": {
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "glm4": {},
    "glm4, rotated in full": {"partial_rotary_factor": 1.0, "attention_bias": False},
    "gpt_neox": {"head_dim": None, **LAYER_NORM},
    "gpt_neox, one after the other": {
        "head_dim": None,
        "use_parallel_residual": False,
        "rotary_pct": 1.0,
        **LAYER_NORM,
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
        "mlp_bias": True,
    },
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 4, "sliding_window": 9},
    "olmo3, yarn": {
        **WIDE,
        "num_hidden_layers": 4,
        "sliding_window": 9,
        "rope_parameters": {
            "full_attention": YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "mixtral": {"num_local_experts": 4},
    "mixtral, sliding window, more experts per token": {
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "sliding_window": 9,
    },
    "qwen2_moe": {"head_dim": None, "shared_expert_intermediate_size": 24, **EXPERTS},
    "qwen2_moe, normalized": {
        "head_dim": None,
        "shared_expert_intermediate_size": 24,
        "norm_topk_prob": True,
        **EXPERTS,
    },
    "qwen3_moe": {"norm_topk_prob": True, **EXPERTS},
    "qwen3_moe, an MLP in some layers": {
        "num_hidden_layers": 4,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [1],
        **EXPERTS,
    },
    "gpt_oss": {
        **WIDE,
        "num_hidden_layers": 4,
        "sliding_window": 9,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {**YARN, "truncate": False},
    },
    "olmoe": {"head_dim": None, "num_experts": 6, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "residual_multiplier": 0.4, "head_dim": None},
    "granitemoeshared": {"shared_intermediate_size": 24, "logits_scaling": 2.0, "head_dim": None},
    "phi3": {"head_dim": None},
    "phi3, partly rotated": {"head_dim": None, "partial_rotary_factor": 0.75},
    "phi3, sliding window": {"head_dim": None, "sliding_window": 9},
    "seed_oss": {"attention_bias": True, "attention_out_bias": True},
    "smollm3": {"num_hidden_layers": 4},
    "smollm3, windows": {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 9},
    "stablelm": {"head_dim": None, **LAYER_NORM},
    "stablelm, biases": {"head_dim": None, "use_qkv_bias": True, "partial_rotary_factor": 0.5, **LAYER_NORM},
    "stablelm, side by side": {"head_dim": None, "use_parallel_residual": True, **LAYER_NORM},
    "starcoder2": {"sliding_window": None},
    "starcoder2, sliding window, no biases": {"sliding_window": 9, "use_bias": False, "hidden_act": "gelu"},
    "gpt2": {},
    "gpt2, untied head": {"tie_word_embeddings": False},
    "gpt2, exact GELU": {"activation_function": "gelu"},
}
"""Config fields by model name. The name begins with the model_type; other fields have the values of DECODER or GPT2."""

GPT2: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}


def random_model(name: str, **changes: Any) -> Any:
    """Build one of MODELS in transformers, in float32, with random weights, biases and norms.

    `changes` are further config fields.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = name.partition(",")[0]
    fields = {**(GPT2 if kind == "gpt2" else DECODER), **MODELS[name], **changes}
    if fields.get("head_dim", 0) is None:
        del fields["head_dim"]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), dtype=torch.float32).eval()
    for parameter in model.parameters():
        # transformers initializes biases to 0 and norms to 1, which would hide a missing or swapped parameter.
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith(("sinks", "_proj_bias")):  # large enough that a sink or a clamped activation shows
            torch.nn.init.normal_(parameter, 0.0, 3.0)
    return model


def random_prompt(num_tokens: int, seed: int = 0) -> list[int]:
    """Return random token ids."""
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def engine_logits(
    model: Path, prompts: Sequence[Sequence[int]], max_new_tokens: int, **settings: Any
) -> list[tuple[list[int], Tensor]]:
    """Return the token ids of each prompt with its completion, and the logits after each token but the last."""
    config = EngineConfig(model=str(model), dtype="float32", device="cpu", prefix_cache=False, **settings)
    params = SamplingParams(max_new_tokens=max_new_tokens, stop_on_eos=False)
    return [(traced.token_ids, traced.logits) for traced in run_traced(build_engine(config), prompts, params)]


@torch.inference_mode()
def transformers_logits(model: Any, token_ids: Sequence[int]) -> Tensor:
    """Return the logits after each token but the last, from one forward pass over all tokens."""
    logits: Tensor = model(torch.tensor([token_ids])).logits[0, :-1]
    assert logits.std() > 0.1, "a model with nearly equal logits proves nothing"
    return logits
