"""Values of fields that a config.json may leave out, as in transformers' config classes, by model_type.

Sizes that decide the shape of every weight must be in the file: vocab_size, hidden_size, intermediate_size, and the
numbers of layers and heads. Fields with the same default in all models are read with that default where they are used.
"""

from typing import Any


def _rms(context: int, eps: float, kv_heads: int | None = None) -> dict[str, Any]:
    fields = {"max_position_embeddings": context, "rms_norm_eps": eps}
    return fields if kv_heads is None else {**fields, "num_key_value_heads": kv_heads}


HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere": {"max_position_embeddings": 8192, "layer_norm_eps": 1e-5},
    "cohere2": {"max_position_embeddings": 8192, "layer_norm_eps": 1e-5},
    "exaone4": {**_rms(2048, 1e-5, kv_heads=32), "sliding_window": 4096},
    "glm4": _rms(131_072, 1.5625e-7, kv_heads=2),
    "gpt_neox": {"max_position_embeddings": 2048, "layer_norm_eps": 1e-5},
    "granite": _rms(2048, 1e-6),
    "llama": _rms(2048, 1e-6),
    "ministral": _rms(131_072, 1e-6, kv_heads=8),
    "mistral": _rms(131_072, 1e-6, kv_heads=8),
    "olmo2": _rms(2048, 1e-5),
    "olmo3": _rms(2048, 1e-5),
    "phi3": _rms(4096, 1e-5),
    "qwen2": _rms(32_768, 1e-6, kv_heads=32),
    "qwen3": _rms(32_768, 1e-6, kv_heads=32),
    "seed_oss": _rms(524_288, 1e-6, kv_heads=8),
    "smollm3": _rms(32_768, 1e-6, kv_heads=4),
    "stablelm": {"max_position_embeddings": 4096, "layer_norm_eps": 1e-5},
    "starcoder2": {"max_position_embeddings": 4096, "norm_epsilon": 1e-5, "num_key_value_heads": 2},
    # Models without a class in transformers: the defaults of their own config classes.
    "baichuan": {"rms_norm_eps": 1e-6},
    "exaone": {"max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5},
    "internlm2": _rms(2048, 1e-6),
}
