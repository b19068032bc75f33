"""Dialects of the shared decoder: config.json with Hugging Face's weight names, and GGUF with llama.cpp's names.

An architecture's own file contains only the differences in its checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import Rope
from roseinfer.model_files import quoted
from roseinfer.models.activation_names import ActivationName, activation_from_hf
from roseinfer.models.dialect import Checkpoint, Dialect, WeightPlace, WeightPlaces
from roseinfer.models.expert_names import GGUF_EXPERTS, gguf_expert_places
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.fields import gguf_vocab_size, optional, require, require_feature, same_size, size
from roseinfer.models.head_layout import reordered_projection
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import ROPE_TENSORS, rope_from_gguf, rope_from_hf

FULL, SLIDING = "full_attention", "sliding_attention"
"""Types of layers in a config.json: with attention to all tokens, and with a sliding window."""

_GGUF_GLOBAL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
GGUF_NORMS_AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""Norms after attention and MLP, by llama.cpp's names, of models that have them."""
GGUF_SANDWICH = {"ffn_norm": "pre_feedforward_layernorm", **GGUF_NORMS_AFTER}
"""Norms around attention and MLP whose names differ from Llama's."""

_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


HfWeight = Callable[[str, ModelConfig], WeightPlaces | None]


def hugging_face(config: Callable[[Mapping[str, Any]], ModelConfig], weight: HfWeight | None = None) -> Dialect:
    """Return the Hugging Face dialect of an architecture. `config` converts its config.json to a ModelConfig.

    `weight` maps the names of tensors; None: they have the names of the weight map.
    """
    return Dialect(lambda checkpoint: config(checkpoint.fields), weight or hf_weight)


def reordered_qk(interleaved: bool) -> HfWeight:
    """Return a weight function that reorders query and key heads for the kernels' rotation.

    For models that rotate a part of each head, and for `interleaved` pairs.
    """

    def weight(name: str, config: ModelConfig) -> WeightPlaces | None:
        if hf_weight(name, config) is None:
            return None
        return name, reordered_projection(name.split(".")[-2], config, interleaved=interleaved)

    return weight


def gguf(
    name: str,
    *,
    architecture: str | None = None,
    reorders_qk: bool = False,
    rotates_part: bool = False,
    names: Mapping[str, str] = MappingProxyType({}),
    experts: Mapping[str, Any] | None = None,
    adapt: Callable[[ModelConfig, Checkpoint], ModelConfig] | None = None,
    **flags: Any,
) -> Dialect:
    """Return the GGUF dialect of the architecture that llama.cpp calls `name`.

    `flags` are fields of ModelConfig that the file does not contain, and `adapt` converts the rest. With `reorders_qk`,
    pairs of the rotation are neighbors in the file, as in Llama's files. With `rotates_part`, the file may name a part
    of each head that is rotated. `names` are modules of a layer whose names differ from Llama's.
    `experts` are fields of `ExpertsSpec` that the file does not contain, for models that may have experts.
    """
    config = partial(_gguf_config, name, architecture or name, rotates_part, experts, adapt, flags)
    return Dialect(config, partial(_gguf_weight, reorders_qk, {**_GGUF_LAYER, **names}))


def hf_config(
    architecture: str,
    raw: Mapping[str, Any],
    *,
    rope: tuple[Rope, int] | None = None,
    norm_eps: str = "rms_norm_eps",
    activation: str = "hidden_act",
    default_activation: str = "silu",
    activations: tuple[ActivationName, ...] = ("silu",),
    tied: bool = False,
    **flags: Any,
) -> ModelConfig:
    """Convert the config.json fields that Llama-style architectures share. `flags` are the other ModelConfig fields.

    `rope` is the result of `rope_from_hf`, for models that call it in their own way. `norm_eps` and `activation` are
    the keys of these fields, and `tied` is the default of tie_word_embeddings.
    """
    num_heads = size(raw, "num_attention_heads")
    hidden_size = size(raw, "hidden_size")
    rotary, context = rope_from_hf(raw) if rope is None else rope
    fields: dict[str, Any] = {
        "architecture": architecture,
        "vocab_size": size(raw, "vocab_size"),
        "hidden_size": hidden_size,
        "num_layers": size(raw, "num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": size(raw, "num_key_value_heads", num_heads),
        "head_dim": size(raw, "head_dim", hidden_size // num_heads),
        "intermediate_size": size(raw, "intermediate_size"),
        "max_position_embeddings": context,
        "norm_eps": require(raw, norm_eps, float),
        "tie_word_embeddings": optional(raw, "tie_word_embeddings", bool, tied),
        "rope": rotary,
        "activation": activation_from_hf(activation, raw.get(activation, default_activation), activations),
    }
    return ModelConfig(**fields | flags)


def hf_windows(raw: Mapping[str, Any], window: int | None, default_kinds: Sequence[str]) -> list[int | None]:
    """Return the sliding window of each layer, None for layers that attend to all tokens.

    `layer_types` names the layers with a window; `default_kinds` are the types where the config has no such field.
    """
    num_layers = size(raw, "num_hidden_layers")
    kinds = optional(raw, "layer_types", list, list(default_kinds))
    if len(kinds) != num_layers:
        raise ModelError(f"layer_types has {len(kinds)} types for {num_layers} layers")
    if unknown := [kind for kind in kinds if kind not in (FULL, SLIDING)]:
        raise ModelError(f"layer type {quoted(unknown[0])} is not supported; supported: {FULL}, {SLIDING}")
    return [window if kind == SLIDING else None for kind in kinds]


def full_every(period: int, num_layers: int) -> list[str]:
    """Return the types of layers of which every `period`-th attends to all tokens, and the others have a window."""
    return [SLIDING if (index + 1) % period else FULL for index in range(num_layers)]


def gguf_has_window(prefix: str, config: ModelConfig, checkpoint: Checkpoint, period: int) -> list[bool]:
    """Return which layers have the window: those that a GGUF file lists, or else all but every `period`-th."""
    listed = checkpoint.fields.get(f"{prefix}.attention.sliding_window_pattern")
    if not isinstance(listed, list):
        return [kind == SLIDING for kind in full_every(period, config.num_layers)]
    if len(listed) != config.num_layers:
        raise ModelError(f"sliding_window_pattern has {len(listed)} values for {config.num_layers} layers")
    return [bool(each) for each in listed]


def with_windows(config: ModelConfig, windows: Sequence[int | None]) -> ModelConfig:
    """Return the config with a sliding window per layer."""
    if len(set(windows)) == 1:
        return msgspec.structs.replace(config, sliding_window=windows[0])
    return config.with_attention(lambda index, spec: msgspec.structs.replace(spec, window=windows[index]))


def hf_weight(name: str, _config: ModelConfig) -> WeightPlace | None:
    """Return the stored name unchanged, or None for rotary frequencies, which old checkpoints contain."""
    return None if name.endswith(".rotary_emb.inv_freq") else (name, None)


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Return a tensor's name with every part in `names` replaced. Keys that begin with a dot match inside the name."""
    for stored, ours in names.items():
        if stored in name if stored.startswith(".") else name.startswith(stored):
            name = name.replace(stored, ours, 1)
    return name


def _gguf_config(
    prefix: str,
    architecture: str,
    rotates_part: bool,
    experts: Mapping[str, Any] | None,
    adapt: Callable[[ModelConfig, Checkpoint], ModelConfig] | None,
    flags: dict[str, Any],
    checkpoint: Checkpoint,
) -> ModelConfig:
    metadata, names = checkpoint.fields, checkpoint.tensor_names
    num_heads = same_size(metadata, f"{prefix}.attention.head_count")
    hidden_size = size(metadata, f"{prefix}.embedding_length")
    head_dim = size(metadata, f"{prefix}.attention.key_length", hidden_size // num_heads)
    require_feature(
        f"{prefix}.attention.value_length", metadata.get(f"{prefix}.attention.value_length", head_dim), head_dim
    )
    if experts is None:
        require_feature(f"{prefix}.expert_count", metadata.get(f"{prefix}.expert_count", 0), 0)
    rotary_dim = size(metadata, f"{prefix}.rope.dimension_count", head_dim)
    if not rotates_part or rotary_dim > head_dim or rotary_dim % 2:
        require_feature(f"{prefix}.rope.dimension_count", rotary_dim, head_dim)
    if f"{prefix}.attention.sliding_window_pattern" in metadata and adapt is None:
        raise ModelError("a sliding window in some of the layers is not supported; supported: in all layers, in none")
    rope, context = rope_from_gguf(metadata, prefix, _factors(checkpoint))
    rms = "attention.layer_norm_rms_epsilon" if flags.get("norm", "rms") == "rms" else "attention.layer_norm_epsilon"
    fields: dict[str, Any] = {
        "architecture": architecture,
        "vocab_size": gguf_vocab_size(metadata, prefix),
        "hidden_size": hidden_size,
        "num_layers": size(metadata, f"{prefix}.block_count"),
        "num_heads": num_heads,
        "num_kv_heads": same_size(metadata, f"{prefix}.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": same_size(metadata, f"{prefix}.feed_forward_length"),
        "max_position_embeddings": context,
        "norm_eps": require(metadata, f"{prefix}.{rms}", float),
        "tie_word_embeddings": "output.weight" not in names,
        "rope": rope if rotary_dim == head_dim else msgspec.structs.replace(rope, rotary_dim=rotary_dim),
        "sliding_window": optional(metadata, f"{prefix}.attention.sliding_window", int, 0) or None,
        "qkv_bias": "blk.0.attn_q.bias" in names or "blk.0.attn_qkv.bias" in names,
        "output_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_down.bias" in names,
    }
    if experts is not None:
        fields["experts"] = _gguf_experts(prefix, experts, checkpoint)
    config = ModelConfig(**fields | flags)
    return config if adapt is None else adapt(config, checkpoint)


def _gguf_experts(prefix: str, flags: Mapping[str, Any], checkpoint: Checkpoint) -> ExpertsSpec | None:
    """Return the experts that the metadata describe, or None if there are none."""
    metadata, names = checkpoint.fields, checkpoint.tensor_names
    if not metadata.get(f"{prefix}.expert_count"):
        return None
    width = same_size(metadata, f"{prefix}.feed_forward_length")
    shared = f"{prefix}.expert_shared_feed_forward_length"
    fields: dict[str, Any] = {
        "num_experts": size(metadata, f"{prefix}.expert_count"),
        "top_k": size(metadata, f"{prefix}.expert_used_count"),
        "intermediate_size": size(metadata, f"{prefix}.expert_feed_forward_length", width),
        "shared_size": size(metadata, shared, width) if "blk.0.ffn_up_shexp.weight" in names else 0,
    }
    return ExpertsSpec(**{**fields, **flags})


def _factors(checkpoint: Checkpoint) -> dict[str, tuple[float, ...]]:
    """Return the divisors of rotary frequencies that a file stores as tensors, by the tensors' names."""
    read = checkpoint.read
    if read is None:
        return {}
    stored = (name for name in ROPE_TENSORS if name in checkpoint.tensor_names)
    return {name: tuple(read(name).flatten().tolist()) for name in stored}


def _gguf_weight(reorders_qk: bool, names: Mapping[str, str], name: str, config: ModelConfig) -> WeightPlaces | None:
    part, _, kind = name.rpartition(".")
    if part in _GGUF_GLOBAL:
        return f"{_GGUF_GLOBAL[part]}.{kind}", None
    if name in ROPE_TENSORS and config.rope is not None and config.rope.scaling is not None:
        return None  # read with the config
    block, _, rest = name.removeprefix("blk.").partition(".")
    module, _, kind = rest.rpartition(".")
    if name.startswith("blk.") and module in GGUF_EXPERTS and config.experts is not None:
        layer = f"model.layers.{block}"
        return gguf_expert_places(kind, GGUF_EXPERTS[module], layer, config.experts, config.hidden_size)
    if not name.startswith("blk.") or module not in names:
        return name, None  # unknown, so loading refuses it by this name
    if module == "attn_sinks":
        return f"model.layers.{block}.{names[module]}.sinks", None
    transform = reordered_projection(names[module].split(".")[-1], config, interleaved=reorders_qk)
    return f"model.layers.{block}.{names[module]}.{kind}", transform
