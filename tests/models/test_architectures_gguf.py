"""Tests that a model in a GGUF file agrees with transformers.

`write_gguf` writes files as llama.cpp's converter does: with names from the gguf package, rows of Q and K reordered for
Llama and Mistral, and llama3 scaling as a tensor of divisors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from architecture_models import MODELS, TRAINED_CONTEXT, engine_logits, random_model, random_prompt, transformers_logits

from roseinfer.config import EngineConfig
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import YarnScaling
from roseinfer.models.architectures import read_config
from roseinfer.models.dialect import Checkpoint
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope import RotaryEmbedding

GGUF_NAMES = {
    "mistral": "llama",
    "cohere": "command-r",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "olmo3": "olmo2",
    "mixtral": "llama",
    "gpt_oss": "gpt-oss",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "granitemoeshared": "granitemoe",
}
REORDERED = ("llama", "granite", "granitemoe", "smollm3")
"""Architectures whose queries and keys llama.cpp's converter reorders, to rotate neighbors."""

SAME_IN_GGUF = [
    "llama",
    "llama, tied head",
    "llama, head_dim apart from hidden size",
    "llama, all biases",
    "llama, llama3",
    "llama, linear",
    "llama, yarn",
    "mistral",
    "mistral, sliding window",
    "qwen2",
    "qwen2, tied head",
    "qwen2, yarn",
    "qwen3",
    "qwen3, head_dim apart from hidden size",
    "qwen3, yarn",
    "cohere",
    "cohere2",
    "exaone4",
    "exaone4, no windows",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3_text, bounded logits",
    "glm4",
    "gpt_neox",
    "gpt_neox, one after the other",
    "granite",
    "olmo2",
    "olmo3",
    "olmo3, yarn",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "olmoe",
    "granitemoe",
    "granitemoeshared",
    "phi3",
    "phi3, partly rotated",
    "seed_oss",
    "smollm3",
    "stablelm",
    "stablelm, side by side",
    "starcoder2",
    "gpt2",
    "gpt2, untied head",
]


@pytest.mark.parametrize("name", SAME_IN_GGUF)
def test_logits_equal_transformers_at_every_position(name: str, tmp_path: Path) -> None:
    # llama.cpp scales Gemma's scores by head_dim, which is what the public models have.
    changes: dict[str, Any] = {"query_pre_attn_scalar": 8} if name.startswith(("gemma2", "gemma3")) else {}
    if name == "gpt_oss":  # llama.cpp rounds YaRN's bounds to whole dimensions
        changes = {"rope_parameters": MODELS[name]["rope_parameters"] | {"truncate": True}}
    oracle = random_model(name, **changes)
    path = write_gguf(oracle, tmp_path / "model.gguf")
    prompts = [random_prompt(5), random_prompt(60)]
    for token_ids, logits in engine_logits(path, prompts, max_new_tokens=6, max_batch_tokens=23):
        assert (logits - transformers_logits(oracle, token_ids)).abs().max() < 1e-4


def test_divisors_of_frequencies_keep_their_precision_in_bfloat16(tmp_path: Path) -> None:
    path = write_gguf(random_model("llama, llama3"), tmp_path / "model.gguf")
    tables = []
    for dtype in ("float32", "bfloat16"):
        model = build_engine(EngineConfig(model=str(path), dtype=dtype, device="cpu")).runner.model
        tables += [module.table for module in model.modules() if isinstance(module, RotaryEmbedding)]
    assert len(tables) == 2
    assert torch.equal(tables[0].bfloat16(), tables[1])


def test_longrope_is_read_from_tensors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [2.0, 3.0, 5.0, 6.0],
        "rope_theta": 10000.0,
        "original_max_position_embeddings": TRAINED_CONTEXT,
    }
    oracle = random_model("phi3", rope_parameters=scaling, original_max_position_embeddings=TRAINED_CONTEXT)
    path = write_gguf(oracle, tmp_path / "model.gguf")
    for length, max_model_len in ((14, None), (80, 96)):
        ((token_ids, logits),) = engine_logits(path, [random_prompt(length)], 8, max_model_len=max_model_len)
        assert (logits - transformers_logits(oracle, token_ids)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda writer: writer.add_string("llama.rope.scaling.type", "longrope"),
            "'longrope' is not supported",
        ),
        (
            lambda writer: writer.add_float32("llama.rope.scaling.yarn_log_multiplier", 0.1),
            "yarn_log_multiplier is not supported; supported: attn_factor, factor",
        ),
        (lambda writer: writer.add_float32("llama.rope.scaling.attn_factor", 1.5), "attn_factor 1.5 is not supported"),
        (
            lambda writer: writer.add_array("llama.attention.head_count_kv", [2, 4]),
            r"layers that differ in llama\.attention\.head_count_kv \(2, \.\.\.\) are not supported",
        ),
        (lambda writer: writer.add_uint32("llama.rope.dimension_count", 4), "dimension_count 4 .* supported: 8"),
        (lambda writer: writer.add_uint32("llama.attention.value_length", 4), "value_length 4 .* supported: 8"),
        (lambda writer: writer.add_uint32("llama.expert_count", 8), "needs llama.expert_used_count as int"),
        (lambda writer: writer.add_uint32("llama.attention.sliding_window_pattern", 2), "some of the layers"),
        (
            lambda writer: writer.add_tensor("rope_factors_long.weight", np.ones(4, np.float32)),
            r"rope_factors_long\.weight is not part of the llama architecture",
        ),
        (
            lambda writer: writer.add_tensor("blk.0.ffn_gate_inp.weight", np.ones(4, np.float32)),
            r"blk\.0\.ffn_gate_inp\.weight is not part of",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    change: Callable[[gguf.GGUFWriter], None], line: str, tmp_path: Path
) -> None:
    path = write_gguf(random_model("llama"), tmp_path / "model.gguf", change)
    with pytest.raises(ModelError, match=line) as refusal:
        build_engine(EngineConfig(model=str(path), device="cpu"))
    assert "\n" not in str(refusal.value)


def test_counts_per_layer_are_read_if_all_are_equal() -> None:
    counts = {"attention.head_count": [4, 4], "attention.head_count_kv": [2, 2], "feed_forward_length": [48, 48]}
    config = described(**counts)
    assert (config.num_heads, config.num_kv_heads, config.intermediate_size) == (4, 2, 48)
    assert described(block_count=1, **{key: count[:1] for key, count in counts.items()}).num_kv_heads == 2


def test_factors_of_granite_that_a_file_leaves_out_change_nothing() -> None:
    config = described("granite")
    assert (config.embedding_scale, config.residual_scale, config.logit_scale) == (1.0, 1.0, 1.0)
    assert {spec.scale for spec in config.attention_specs} == {config.head_dim**-0.5}


@pytest.mark.parametrize(("key", "magnitude"), [("attn_factor", 1.5), ("yarn_attn_factor", 1.0)])
def test_yarn_multiplies_its_magnitude_as_llama_cpp_does(key: str, magnitude: float) -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    plain, factored = described(**yarn).rope, described(**yarn, **{f"rope.scaling.{key}": 1.5}).rope
    assert plain is not None
    assert factored is not None
    assert isinstance(plain.scaling, YarnScaling)
    assert isinstance(factored.scaling, YarnScaling)
    assert factored.scaling.attention_factor == pytest.approx(magnitude * plain.scaling.attention_factor)


def described(arch: str = "llama", **changes: Any) -> ModelConfig:
    """Return the config of a GGUF file with these metadata of a small model, without the architecture before them."""
    fields = {
        "context_length": 64,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": 64,
        **changes,
    }
    metadata = {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in fields.items()}
    return read_config("gguf", Checkpoint(metadata))


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"'mamba' is not supported; supported: baichuan, cohere2, command-r, .*qwen3"):
        build_engine(EngineConfig(model=str(path), device="cpu"))


def write_gguf(model: Any, path: Path, change: Callable[[gguf.GGUFWriter], None] | None = None) -> Path:
    """Write a transformers model to a GGUF file of float32 tensors. `change` may add fields and tensors."""
    kind = model.config.model_type
    arch = GGUF_NAMES.get(kind, kind)
    writer = gguf.GGUFWriter(path, arch)
    (_write_gpt2 if kind == "gpt2" else _write_decoder)(model, arch, writer)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_decoder(model: Any, arch: str, writer: gguf.GGUFWriter) -> None:
    config = model.config
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    if arch == "gptneox":
        kv_heads = config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(kv_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    _write_rope(model, head_dim, writer)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if arch in ("exaone4", "olmo2") and hasattr(config, "layer_types"):
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    _write_scales(config, arch, writer)
    _write_experts(config, writer)
    reordered = {"q_proj": config.num_attention_heads, "k_proj": kv_heads} if arch in REORDERED else {}
    for name, tensor in _named(model):
        heads = next((heads for part, heads in reordered.items() if f".{part}." in name), None)
        if heads is not None:
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        if "query_key_value" in name:
            tensor = tensor.unflatten(0, (config.num_attention_heads, 3, head_dim)).transpose(0, 1).flatten(0, 2)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        writer.add_tensor(_gguf_name(name, model, arch), tensor.contiguous().numpy())


def _write_rope(model: Any, head_dim: int, writer: gguf.GGUFWriter) -> None:
    parameters = model.config.rope_parameters
    rope = parameters.get("full_attention", parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2) / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    if rope["rope_type"] == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))


def _write_experts(config: Any, writer: gguf.GGUFWriter) -> None:
    num_experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if num_experts is not None:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    for name in ("shared_expert_intermediate_size", "shared_intermediate_size"):
        if hasattr(config, name):
            writer.add_expert_shared_feed_forward_length(getattr(config, name))


def _write_scales(config: Any, arch: str, writer: gguf.GGUFWriter) -> None:
    if arch in ("granite", "granitemoe"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if arch in ("command-r", "cohere2"):
        writer.add_logit_scale(config.logit_scale)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)


def _write_gpt2(model: Any, arch: str, writer: gguf.GGUFWriter) -> None:
    config = model.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    for name, tensor in _named(model):
        is_matrix = name.endswith(".weight") and ".h." in name and tensor.dim() == 2
        writer.add_tensor(_gguf_name(name, model, arch), (tensor.t() if is_matrix else tensor).contiguous().numpy())


def _named(model: Any) -> list[tuple[str, torch.Tensor]]:
    """Return each parameter once, with its name. A tied head has the name of the embedding."""
    parts = _gpt_oss_parts if model.config.model_type == "gpt_oss" else _parts
    return [part for name, parameter in model.named_parameters() for part in parts(name, parameter.detach())]


def _gpt_oss_parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return gate and up, which alternate, as tensors of their own, and matrices as [experts, outputs, inputs]."""
    name, is_bias = name.removesuffix("_bias"), name.endswith("_proj_bias")
    if ".experts." not in name:
        return [(f"{name}.weight" if name.endswith("sinks") else name.replace("mlp.router.", "mlp.gate."), tensor)]
    tensor, kind = (tensor, "bias") if is_bias else (tensor.transpose(1, 2), "weight")
    if name.endswith("gate_up_proj"):
        module = name.removesuffix("gate_up_proj")
        return [(f"{module}{part}_proj.{kind}", tensor[:, at::2]) for at, part in enumerate(("gate", "up"))]
    return [(f"{name}.{kind}", tensor)]


def _parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return the parts of which llama.cpp's converter makes tensors of their own, under Qwen's names of experts."""
    name = name.replace("block_sparse_moe.", "mlp.").replace("mlp.router.", "mlp.gate.")
    name = name.replace("shared_mlp.input_linear.weight", "mlp.shared_expert.gate_up_proj")
    if name.endswith("shared_expert_gate.weight"):
        tensor = tensor[0]
    if name.endswith("gate_up_proj") and ".mlp." in name:
        module = name.removesuffix("gate_up_proj")
        gate, up = tensor.chunk(2, dim=-2)
        return [(f"{module}gate_proj.weight", gate), (f"{module}up_proj.weight", up)]
    return [(f"{name}.weight" if name.endswith("experts.down_proj") else name, tensor)]


def _gguf_name(name: str, model: Any, arch: str) -> str:
    kind = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == arch)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, name
    return found
