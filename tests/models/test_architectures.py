"""Tests that every architecture and RoPE scaling agrees with transformers, also beyond the trained context."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from architecture_models import (
    MODELS,
    TRAINED_CONTEXT,
    engine_logits,
    random_model,
    random_prompt,
    transformers_logits,
)

from roseinfer.config import EngineConfig
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError, UsageError
from roseinfer.models.architectures import architecture, read_config
from roseinfer.models.dialect import Checkpoint
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.model_loading import fill_dummy_weights
from roseinfer.models.shapes import SHAPES

PROMPTS = [random_prompt(length, seed=length) for length in (3, 50, 17, 64)]


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a tiny random model; return its directory, and the same model in transformers."""
    folder, oracle = tmp_path_factory.mktemp("saved"), random_model(request.param)
    # One model is saved in several files.
    oracle.save_pretrained(folder, max_shard_size="20KB" if request.param == "qwen3" else "1GB")
    assert (folder / "model.safetensors.index.json").exists() == (request.param == "qwen3")
    return folder, oracle


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_batch_tokens": 11, "block_size": 4}, {"attention": "gather", "max_batch_tokens": 60}],
    ids=["whole prompts", "chunked prompts", "gathered blocks"],
)
def test_logits_equal_transformers_at_every_position(saved: tuple[Path, Any], settings: dict[str, Any]) -> None:
    folder, oracle = saved
    for token_ids, logits in engine_logits(folder, PROMPTS, max_new_tokens=8, **settings):
        assert (logits - transformers_logits(oracle, token_ids)).abs().max() < 1e-4


def test_decoding_with_the_oracles_own_cache_gives_the_same_logits(saved: tuple[Path, Any]) -> None:
    folder, oracle = saved
    ((token_ids, logits),) = engine_logits(folder, [random_prompt(30)], max_new_tokens=6)
    with torch.inference_mode():
        prefill = oracle(torch.tensor([token_ids[:30]]), use_cache=True)
        rows, cache = [prefill.logits[0, -1]], prefill.past_key_values
        for token_id in token_ids[30:-1]:
            step = oracle(torch.tensor([[token_id]]), past_key_values=cache, use_cache=True)
            rows.append(step.logits[0, -1])
    assert (logits[29:] - torch.stack(rows)).abs().max() < 1e-4


def test_dynamic_scaling_is_that_of_the_longest_request(tmp_path: Path) -> None:
    """Beyond the trained context, the rotation of a position depends on max_model_len only, not on the request."""
    oracle = random_model("llama, dynamic")
    config = oracle.config.to_dict() | {"max_position_embeddings": TRAINED_CONTEXT}
    oracle = type(oracle)(type(oracle.config)(**config))
    oracle.save_pretrained(tmp_path)
    settings = {"max_model_len": 60, "max_batch_tokens": 17}
    alone = engine_logits(tmp_path, [random_prompt(50)], max_new_tokens=10, **settings)[0]
    among = engine_logits(tmp_path, [random_prompt(50), random_prompt(9), random_prompt(40)], 10, **settings)[0]
    assert alone[0] == among[0]
    assert (alone[1] - among[1]).abs().max() < 1e-4
    assert (alone[1] - transformers_logits(oracle, alone[0])).abs().max() < 1e-4

    # By default, max_model_len is the trained context, where nothing is scaled.
    unscaled = type(oracle)(type(oracle.config)(**config | {"rope_parameters": {"rope_theta": 10000.0}}))
    unscaled.load_state_dict(oracle.state_dict())
    short = engine_logits(tmp_path, [random_prompt(14)], max_new_tokens=10)[0]
    assert (short[1] - transformers_logits(unscaled.eval(), short[0])).abs().max() < 1e-4
    with pytest.raises(UsageError, match=f"--max-model-len 97 exceeds the model's context of {4 * TRAINED_CONTEXT}"):
        build_engine(EngineConfig(model=str(tmp_path), max_model_len=97))


@pytest.mark.parametrize(
    "name", [name for name, changes in MODELS.items() if "rope_type" in changes.get("rope_parameters", {})]
)
def test_transformers_4_and_5_describe_the_same_positions(name: str) -> None:
    raw = random_model(name).config.to_dict()
    old = {key: value for key, value in raw.items() if key != "rope_parameters"}
    old["rope_scaling"] = {**raw["rope_parameters"], "type": raw["rope_parameters"]["rope_type"]}
    old["rope_theta"] = old["rope_scaling"].pop("rope_theta")
    del old["rope_scaling"]["rope_type"]
    config = described(raw)
    assert described(old) == config
    assert config.rope is not None
    assert config.rope.scaling is not None


@pytest.mark.parametrize("name", ["gemma3_text, scaled rotation", "olmo3, yarn"])
def test_transformers_4_scales_the_layers_without_a_window(name: str) -> None:
    raw = random_model(name).config.to_dict()
    parameters = raw.pop("rope_parameters")
    full = dict(parameters["full_attention"])
    raw |= {
        "rope_theta": full.pop("rope_theta"),
        "rope_local_base_freq": parameters["sliding_attention"]["rope_theta"],
        "rope_scaling": full,
    }
    assert described(raw) == described({**raw, "rope_parameters": parameters, "rope_scaling": None})


def test_a_mistral_with_windows_in_some_layers_is_a_ministral() -> None:
    ministral = random_model("ministral").config.to_dict()
    mistral = described({**ministral, "model_type": "mistral"})
    assert [spec.window for spec in mistral.attention_specs] == [9, None]
    assert mistral == msgspec.structs.replace(described(ministral), architecture="mistral")


def test_the_text_model_of_gemma_3_is_read_from_a_checkpoint_with_a_vision_tower(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    oracle = random_model("gemma3_text")
    oracle.save_pretrained(tmp_path)
    expected = engine_logits(tmp_path, [random_prompt(5)], 3)[0][0]
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": raw}))
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {f"language_model.{name}": values for name, values in weights.items()}
    tower = {"vision_tower.norm.weight": torch.ones(4), "multi_modal_projector.norm.weight": torch.ones(4)}
    save_file(renamed | tower, tmp_path / "model.safetensors")
    assert engine_logits(tmp_path, [random_prompt(5)], 3)[0][0] == expected


def test_longrope_divides_by_the_list_for_the_longest_request(tmp_path: Path) -> None:
    """The engine's longest request decides; transformers decides by the sequence, so the longest one agrees."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0],
        "long_factor": [2.0, 3.0, 5.0],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": TRAINED_CONTEXT,
    }
    fields = {"rope_parameters": scaling, "original_max_position_embeddings": TRAINED_CONTEXT}
    oracle = random_model("phi3", **fields)
    oracle.save_pretrained(tmp_path)
    short = engine_logits(tmp_path, [random_prompt(14)], max_new_tokens=6)[0]
    assert (short[1] - transformers_logits(oracle, short[0])).abs().max() < 1e-4
    long = engine_logits(tmp_path, [random_prompt(80)], max_new_tokens=8, max_model_len=96, max_batch_tokens=17)[0]
    assert (long[1] - transformers_logits(oracle, long[0])).abs().max() < 1e-4
    with pytest.raises(UsageError, match="--max-model-len 97 exceeds the model's context of 96"):
        build_engine(EngineConfig(model=str(tmp_path), max_model_len=97))
    with pytest.raises(ModelError, match="longrope needs 3 short_factor and long_factor values, not 3 and 2"):
        described({**oracle.config.to_dict(), "rope_parameters": {**scaling, "long_factor": [2.0, 3.0]}})


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "dynamic", "factor": 4.0}, 100),
        ({"rope_type": "yarn", "factor": 4.0}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 20}, 100),
        ({"rope_type": "yarn", "original_max_position_embeddings": 20}, 100),
        (
            {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1, "high_freq_factor": 4}
            | {"original_max_position_embeddings": 20},
            100,
        ),
    ],
)
def test_the_context_is_what_the_scaling_reaches(scaling: dict[str, Any], context: int) -> None:
    raw = {**random_model("llama").config.to_dict(), "max_position_embeddings": 100, "rope_parameters": scaling}
    assert described(raw).max_position_embeddings == context


@pytest.mark.parametrize(
    ("model", "changes", "line"),
    [
        ("llama", {"model_type": "mamba"}, "'mamba' is not supported; supported: baichuan, cohere, .* starcoder2"),
        ("llama", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported; supported: silu"),
        ("gpt2", {"activation_function": "relu"}, "'relu' is not supported; supported: gelu_new, .*gelu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "proportional"}},
            "'proportional' is not supported; supported: default",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "needs factor as float, but it is missing"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor of 0.0"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; supported: 1.0"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization 'gptq' is not supported"),
        ("llama", {"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads = 0"),
        ("llama", {"head_dim": 7}, "even head_dim"),
        (
            "exaone4",
            {"layer_types": None, "sliding_window_pattern": "LLLG"},
            "needs sliding_window_pattern as int, but it is 'LLLG'",
        ),
        ("mistral", {"sliding_window": -1}, "sliding_window = -1"),
        ("mistral", {"layer_types": ["full_attention"], "sliding_window": 9}, "layer_types has 1 types for 2 layers"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": ["chunked_attention"] * 2},
            "'chunked_attention' is not supported; supported: full_attention, sliding_attention",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(model: str, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line) as refusal:
        described({**random_model(model).config.to_dict(), **changes})
    assert "\n" not in str(refusal.value)


def test_an_mlp_without_a_gate_has_no_silu() -> None:
    config = msgspec.structs.replace(SHAPES["llama-3.2-1b"], num_layers=1, gated_mlp=False)
    with torch.device("meta"), pytest.raises(ModelError, match="silu in an MLP without a gate is not supported"):
        architecture("llama").build(config)


def test_a_config_that_says_little_gets_transformers_defaults() -> None:
    raw = random_model("qwen3").config.to_dict()
    for key in ("head_dim", "rope_parameters", "use_sliding_window", "layer_types", "tie_word_embeddings"):
        raw.pop(key, None)
    config = described(raw)
    assert config.head_dim == 128
    assert config.rope is not None
    assert config.rope.theta == 10000.0
    assert not config.tie_word_embeddings
    raw = {**random_model("mistral").config.to_dict(), "layer_types": None}
    del raw["sliding_window"]
    assert described(raw).sliding_window == 4096


def test_old_rotary_buffers_are_no_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    random_model("llama").save_pretrained(tmp_path)
    expected = engine_logits(tmp_path, [random_prompt(5)], 3)[0][0]
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, tmp_path / "model.safetensors"
    )
    assert engine_logits(tmp_path, [random_prompt(5)], 3)[0][0] == expected


PUBLIC_PARAMETERS = {
    "gpt2": 124_439_808,
    "gemma-3-4b": 3_880_263_168,
    "phi-4-mini": 3_836_021_760,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
}


def test_built_in_shapes_are_what_the_public_configs_say() -> None:
    llama = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": True,
    }
    qwen3 = {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "tie_word_embeddings": True,
    }
    assert described(llama) == SHAPES["llama-3.2-1b"]
    assert described(qwen3) == SHAPES["qwen3-0.6b"]


def test_built_in_shapes_have_the_public_models_parameters() -> None:
    counts = {}
    for name, config in SHAPES.items():
        with torch.device("meta"):
            model = architecture(config.architecture).build(config.limited_to(8))
        counts[name] = sum(view.numel() for view in model.weight_views().values())
    assert counts == PUBLIC_PARAMETERS


def test_a_shape_runs_with_dummy_weights(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        SHAPES["llama-3.2-1b"], num_layers=1, hidden_size=16, intermediate_size=8, vocab_size=32, head_dim=4
    )
    model = architecture(config.architecture).build(config.limited_to(16))
    fill_dummy_weights(model, seed=0)
    assert all(view.isfinite().all() for view in model.weight_views().values())


def described(raw: dict[str, Any]) -> ModelConfig:
    """Return the shape read from the fields of a config.json."""
    return read_config("safetensors", Checkpoint(json.loads(json.dumps(raw))))
