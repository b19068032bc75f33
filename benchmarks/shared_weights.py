"""Export the weights that roseinfer loaded as a Hugging Face directory, so that all engines run the same model."""

from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from roseinfer.engine.engine import Engine
from roseinfer.models.model_config import ModelConfig

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def export(engine: Engine, folder: Path) -> Path:
    """Write config.json and model.safetensors to the folder, in the engine's dtype; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    views = engine.runner.model.weight_views()
    weights = {name: view.detach().to("cpu").contiguous().clone() for name, view in views.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes(msgspec.json.encode(_hf_config(engine)))
    return folder


def _hf_config(engine: Engine) -> dict[str, object]:
    config = engine.model_config
    if config.architecture not in _CLASSES:
        raise SystemExit(f"cannot export architecture {config.architecture}: give --model a Hugging Face directory")
    dtype = str(engine.runner.cache.data.dtype).removeprefix("torch.")
    shared = {
        "model_type": config.architecture,
        "architectures": [_CLASSES[config.architecture]],
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return shared | (_gpt2(config) if config.architecture == "gpt2" else _llama(config))


def _gpt2(config: ModelConfig) -> dict[str, object]:
    return {
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "n_positions": config.max_position_embeddings,
        "layer_norm_epsilon": config.norm_eps,
    }


def _llama(config: ModelConfig) -> dict[str, object]:
    if config.rope is None or config.rope.scaling is not None:
        raise SystemExit("cannot export a model with scaled or no RoPE: give --model a Hugging Face directory")
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "hidden_act": config.activation,
        "attention_bias": config.qkv_bias and config.architecture != "qwen2",
        "mlp_bias": config.mlp_bias,
        "sliding_window": config.sliding_window,
    }


def num_threads() -> int:
    """Return the number of CPU threads that each engine may use."""
    return torch.get_num_threads()
