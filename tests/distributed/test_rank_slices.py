"""A rank reads its slice of every weight, in every file format, and the slices of all ranks are the whole model."""

from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
import torch
from architecture_models import random_model

from roseinfer.distributed.rank_group import RankGroup
from roseinfer.errors import ModelError, UsageError
from roseinfer.models.architectures import architecture
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.model_loading import fill_dummy_weights, load_config, load_weights
from roseinfer.models.shapes import SHAPES
from roseinfer.models.tensor_parallel import Division, divide
from roseinfer.models.weight_slices import RankPart
from roseinfer.weights.resolve import resolve
from roseinfer.weights.weight_reader import open_weights

HIDDEN, WIDTH, VOCABULARY, HEADS, HEAD_DIM = 128, 256, 70, 8, 16


class Alone(RankGroup):
    """A rank without processes beside it, for models that are loaded and not run."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def built(config: ModelConfig, rank: int | None = None, size: int = 1) -> tuple[CausalLM, RankPart | None]:
    """An unloaded model in float32, whole or of one rank."""
    if rank is None:
        return architecture(config.architecture).build(config), None
    division = Division(config, rank, size)
    model = architecture(config.architecture).build(division.config)
    return model, RankPart(config, divide(model, division, Alone(rank, size)))


def loaded(path: Path, rank: int | None = None, size: int = 1, **options: Any) -> tuple[CausalLM, RankPart | None]:
    """The model in a file, whole or of one rank."""
    source = resolve(str(path), "auto", SHAPES)
    reader = open_weights(source)
    model, part = built(load_config(source, reader), rank, size)
    load_weights(model, reader, source, torch.float32, rank=part, **options)
    return model, part


def assert_slices(whole: CausalLM, model: CausalLM, part: RankPart | None) -> None:
    """Every weight of the rank is its slice of the whole model's."""
    assert part is not None
    expected = whole.weight_views()
    halves = 0
    for name, slot in model.weight_map().items():
        kept = part.slices.get(slot)
        wanted = expected[name] if kept is None else kept.of(expected[name])
        assert torch.equal(slot.view, wanted), name
        halves += kept is not None
    assert halves >= 6, "the projections of every layer are divided"


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "name", ["llama, all biases", "gpt2, untied head", "gpt_neox", "phi3, partly rotated", "olmo2"]
)
def test_slices_of_safetensors(name: str, size: int, tmp_path: Path) -> None:
    random_model(name).to(torch.bfloat16).save_pretrained(tmp_path)
    whole, _ = loaded(tmp_path)
    for rank in range(size):
        assert_slices(whole, *loaded(tmp_path, rank, size))


def test_the_slices_of_all_ranks_are_the_whole_projection(tmp_path: Path) -> None:
    random_model("llama, all biases").save_pretrained(tmp_path)
    whole, _ = loaded(tmp_path)
    ranks = [loaded(tmp_path, rank, 2)[0] for rank in range(2)]
    views = [rank.weight_views() for rank in ranks]
    for name, dim in (("self_attn.q_proj", 0), ("self_attn.o_proj", 1), ("mlp.up_proj", 0), ("mlp.down_proj", 1)):
        name = f"model.layers.1.{name}.weight"
        assert torch.equal(torch.cat([view[name] for view in views], dim), whole.weight_views()[name])
    biases = [view["model.layers.1.mlp.down_proj.bias"] for view in views]
    assert torch.equal(biases[0] + biases[1], whole.weight_views()["model.layers.1.mlp.down_proj.bias"])
    assert not biases[1].any(), "one rank adds the bias of a sum"


def test_key_value_heads_are_copied_where_there_are_fewer_than_ranks(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)  # 4 heads, 2 key-value heads
    whole = loaded(tmp_path)[0].weight_views()["model.layers.0.self_attn.k_proj.weight"]
    for rank in range(4):
        keys = loaded(tmp_path, rank, 4)[0].weight_views()["model.layers.0.self_attn.k_proj.weight"]
        head = rank // 2
        assert torch.equal(keys, whole[8 * head : 8 * head + 8])


@pytest.mark.parametrize(
    ("kind", "keep_quantized"),
    [
        *((kind, False) for kind in ("F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")),
        # Other types become 8-bit rows, with a scale per row of the slice.
        ("Q4_0", True),
        ("Q4_1", True),
    ],
)
def test_slices_of_gguf(kind: str, keep_quantized: bool, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", kind)
    whole, _ = loaded(path, keep_quantized=keep_quantized)
    for rank in range(2):
        assert_slices(whole, *loaded(path, rank, 2, keep_quantized=keep_quantized))


def test_groups_that_a_slice_would_cut_are_refused(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", "Q4_0")
    with pytest.raises(ModelError, match=r"groups of 32 columns.* choose another --tensor-parallel"):
        loaded(path, 0, 8, keep_quantized=True)  # 16 columns of the output projection per rank
    whole, _ = loaded(path)
    assert_slices(whole, *loaded(path, 3, 8))  # dequantized


@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b"])
def test_a_rank_of_a_dummy_model_is_a_slice_of_the_whole_one(name: str) -> None:
    config = msgspec.structs.replace(SHAPES[name], num_layers=2, vocab_size=100, intermediate_size=128)
    whole, _ = built(config)
    fill_dummy_weights(whole, seed=3)
    for rank in range(2):
        model, part = built(config, rank, 2)
        fill_dummy_weights(model, 3, part)
        assert_slices(whole, model, part)


def test_a_number_of_ranks_that_does_not_divide_the_model_is_refused(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"^--tensor-parallel 3 .* query heads of 4: give 1, 2 or 4$"):
        loaded(tmp_path, 0, 3)
    config = SHAPES["llama-3-8b"]
    assert Division(config, 0, 8).config.num_kv_heads == 1
    assert Division(config, 0, 16).config.num_kv_heads == 1
    with pytest.raises(UsageError, match="give 1, 2, 4, 8, 16 or 32"):
        _ = Division(config, 0, 64).config


def write_llama(path: Path, kind: str) -> Path:
    """Write a Llama of random matrices of one GGUF type."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, HIDDEN), "output": (VOCABULARY, HIDDEN)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{part}": (WIDTH, HIDDEN) for part in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (HIDDEN, WIDTH)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", random.standard_normal(HIDDEN).astype(np.float32))
    writer.add_tensor("output_norm.weight", random.standard_normal(HIDDEN).astype(np.float32))
    quantization = gguf.GGMLQuantizationType[kind]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
    for name, (rows, columns) in shapes.items():
        values = random.standard_normal((rows, columns)).astype(np.float32)
        if kind == "F32" or columns % block_size:
            writer.add_tensor(f"{name}.weight", values)
        elif block_size == 256:  # the package cannot quantize these types, but any codes are valid
            raw = random.integers(0, 256, (rows, columns // 256, block_bytes), np.uint8)
            raw[..., :4] = np.full(2, 0.01, np.float16).view(np.uint8)
            raw[..., -2:] = np.full(1, 0.01, np.float16).view(np.uint8)
            writer.add_tensor(f"{name}.weight", raw.reshape(rows, -1), raw_dtype=quantization)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
