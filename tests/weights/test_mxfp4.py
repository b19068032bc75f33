"""Tests of MXFP4 matrices in safetensors files, against the gguf package and transformers."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from architecture_models import engine_logits, random_model, random_prompt
from safetensors.torch import load_file, save_file

from roseinfer.config import EngineConfig
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError
from roseinfer.weights.mxfp4 import dequantize_mxfp4


def random_mxfp4(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random blocks and scales of matrices of this shape, whose last number counts elements."""
    generator = torch.Generator().manual_seed(sum(shape))
    *rows, size = shape
    blocks = torch.randint(256, (*rows, size // 32, 16), dtype=torch.uint8, generator=generator)
    return blocks, torch.randint(118, 126, (*rows, size // 32), dtype=torch.uint8, generator=generator)


def test_values_are_those_of_the_gguf_package() -> None:
    blocks, scales = random_mxfp4(3, 64)
    # GGUF stores the first 16 elements of a group in the low bits, and the other 16 in the high bits.
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    stored = torch.cat((scales[..., None], codes[..., :16] | codes[..., 16:] << 4), dim=-1).flatten(-2)
    expected = gguf.dequantize(stored.numpy(), gguf.GGMLQuantizationType.MXFP4)
    found = dequantize_mxfp4(blocks, scales, torch.float32)
    assert found.shape == (3, 64)
    assert np.array_equal(found.numpy(), expected)


def test_a_checkpoint_in_mxfp4_gives_the_logits_of_its_values(tmp_path: Path) -> None:
    oracle = random_model("gpt_oss", hidden_size=64, intermediate_size=32)
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    oracle.save_pretrained(plain)
    weights = load_file(plain / "model.safetensors")
    quantized = {}
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = weights[name].shape
        blocks, scales = random_mxfp4(experts, outputs, inputs)
        weights[name] = dequantize_mxfp4(blocks, scales, torch.float32).transpose(1, 2).contiguous()
        quantized |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(weights, plain / "model.safetensors")
    packed.mkdir()
    others = {name: values for name, values in weights.items() if f"{name}_blocks" not in quantized}
    save_file(others | quantized, packed / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (packed / "config.json").write_text(json.dumps(config))
    prompts = [random_prompt(30)]
    expected, found = engine_logits(plain, prompts, 4)[0], engine_logits(packed, prompts, 4)[0]
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])

    quantized["model.layers.0.mlp.experts.down_proj_scales"] = torch.zeros(1, 2, 3, dtype=torch.uint8)
    save_file(others | quantized, packed / "model.safetensors")
    with pytest.raises(ModelError, match=r"down_proj_blocks has shape .*, but its scales have \(1, 2, 3\)"):
        build_engine(EngineConfig(model=str(packed), device="cpu"))
    config["quantization_config"]["quant_method"] = "awq"
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantization 'awq' is not supported; supported: none, mxfp4, or a GGUF file"):
        build_engine(EngineConfig(model=str(packed), device="cpu"))
