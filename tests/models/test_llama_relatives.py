"""Models of Llama's kind for which transformers has no class agree with references written from their own code.

The references read the stored tensors as these files do, and compute in float64:

- InternLM2: modeling_internlm2.py of https://huggingface.co/internlm/internlm2-chat-7b
- Baichuan 1 and 2: modeling_baichuan.py of https://huggingface.co/baichuan-inc/Baichuan2-7B-Base
- EXAONE 3: modeling_exaone.py of https://huggingface.co/LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from architecture_models import VOCAB_SIZE, engine_logits, random_prompt
from safetensors.torch import save_file
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.models.architectures import read_config
from roseinfer.models.dialect import Checkpoint

HIDDEN, LAYERS, HEADS, HEAD_DIM, INTERMEDIATE = 32, 2, 4, 8, 48
EPS, THETA = 1e-5, 10000.0
SIZES = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": INTERMEDIATE, "rope_theta": THETA}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Relative:
    """One model: its config.json, the names of its tensors, and its projections."""

    config: dict[str, Any]
    kv_heads: int
    names: dict[str, str]
    """Name of each stored tensor by its role; `{}` is the number of the layer."""
    queries_keys_values: Callable[[Tensor, Callable[[str], Tensor]], list[Tensor]]
    """Function from a layer's input [tokens, hidden] and its tensors by role to [tokens, heads, head_dim] each."""
    vocab_size: int = VOCAB_SIZE
    head: Callable[[Tensor], Tensor] = lambda weight: weight
    """Function from the stored head to the matrix that multiplies the hidden states."""


def internlm2_projections(x: Tensor, of: Callable[[str], Tensor]) -> list[Tensor]:
    groups = (x @ of("qkv").T).unflatten(-1, (2, -1, HEAD_DIM))  # key heads, each with its queries, key and value
    return [groups[:, :, :-2].flatten(1, 2), groups[:, :, -2], groups[:, :, -1]]


def baichuan_projections(x: Tensor, of: Callable[[str], Tensor]) -> list[Tensor]:
    return [part.unflatten(-1, (HEADS, HEAD_DIM)) for part in (x @ of("qkv").T).split(HIDDEN, dim=-1)]


def plain_projections(x: Tensor, of: Callable[[str], Tensor]) -> list[Tensor]:
    return [(x @ of(name).T).unflatten(-1, (-1, HEAD_DIM)) for name in "qkv"]


LLAMA_NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "norm1": "model.layers.{}.input_layernorm",
    "norm2": "model.layers.{}.post_attention_layernorm",
    "out": "model.layers.{}.self_attn.o_proj",
    "gate": "model.layers.{}.mlp.gate_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
}
BAICHUAN = Relative(
    config={
        "model_type": "baichuan",
        "vocab_size": VOCAB_SIZE,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": EPS,
        "max_position_embeddings": 96,
        "tie_word_embeddings": False,
    },
    kv_heads=HEADS,
    names={**LLAMA_NAMES, "qkv": "model.layers.{}.self_attn.W_pack"},
    queries_keys_values=baichuan_projections,
)
RELATIVES = {
    "internlm2": Relative(
        config={
            "model_type": "internlm2",
            "vocab_size": VOCAB_SIZE,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 2,
            "rms_norm_eps": EPS,
            "max_position_embeddings": 96,
            "bias": False,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        kv_heads=2,
        names={
            "embed": "model.tok_embeddings",
            "norm": "model.norm",
            "head": "output",
            "norm1": "model.layers.{}.attention_norm",
            "norm2": "model.layers.{}.ffn_norm",
            "qkv": "model.layers.{}.attention.wqkv",
            "out": "model.layers.{}.attention.wo",
            "gate": "model.layers.{}.feed_forward.w1",
            "up": "model.layers.{}.feed_forward.w3",
            "down": "model.layers.{}.feed_forward.w2",
        },
        queries_keys_values=internlm2_projections,
    ),
    "baichuan": BAICHUAN,
    "baichuan, 2": Relative(
        config={**BAICHUAN.config, "vocab_size": 125_696},
        kv_heads=HEADS,
        names=BAICHUAN.names,
        queries_keys_values=baichuan_projections,
        vocab_size=125_696,
        head=lambda weight: weight / weight.norm(dim=1, keepdim=True),
    ),
    "exaone": Relative(
        config={
            "model_type": "exaone",
            "vocab_size": VOCAB_SIZE,
            "num_layers": LAYERS,
            "num_key_value_heads": 2,
            "layer_norm_epsilon": EPS,
            "max_position_embeddings": 96,
            "tie_word_embeddings": False,
            "activation_function": "silu",
        },
        kv_heads=2,
        names={
            "embed": "transformer.wte",
            "norm": "transformer.ln_f",
            "head": "lm_head",
            "norm1": "transformer.h.{}.ln_1",
            "norm2": "transformer.h.{}.ln_2",
            **{name: f"transformer.h.{{}}.attn.attention.{name}_proj" for name in ("q", "k", "v", "out")},
            "gate": "transformer.h.{}.mlp.c_fc_0",
            "up": "transformer.h.{}.mlp.c_fc_1",
            "down": "transformer.h.{}.mlp.c_proj",
        },
        queries_keys_values=plain_projections,
    ),
}


def random_weights(model: Relative) -> Weights:
    """Return random tensors by the names of a checkpoint."""
    query, key_value = HEADS * HEAD_DIM, model.kv_heads * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (model.vocab_size, HIDDEN),
        "norm": (HIDDEN,),
        "head": (model.vocab_size, HIDDEN),
        "norm1": (HIDDEN,),
        "norm2": (HIDDEN,),
        "qkv": (query + 2 * key_value, HIDDEN),
        "q": (query, HIDDEN),
        "k": (key_value, HIDDEN),
        "v": (key_value, HIDDEN),
        "out": (HIDDEN, query),
        "gate": (INTERMEDIATE, HIDDEN),
        "up": (INTERMEDIATE, HIDDEN),
        "down": (HIDDEN, INTERMEDIATE),
    }
    source = torch.Generator().manual_seed(3)
    return {
        f"{name.format(layer)}.weight": torch.randn(shapes[role], generator=source) * 0.3 + (len(shapes[role]) == 1)
        for role, name in model.names.items()
        for layer in (range(LAYERS) if "{}" in name else [0])
    }


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def rotated(x: Tensor) -> Tensor:
    """Rotate [tokens, heads, head_dim] by complex multiplication of the pairs (x[i], x[i + head_dim / 2])."""
    half = HEAD_DIM // 2
    angles = torch.outer(torch.arange(len(x)).double(), THETA ** (-torch.arange(half).double() / half))[:, None]
    pairs = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def reference_logits(model: Relative, weights: Weights, token_ids: list[int]) -> Tensor:
    """Return the logits after each token, [tokens, vocab_size]."""

    def of(role: str, layer: int = 0) -> Tensor:
        return weights[f"{model.names[role].format(layer)}.weight"].double()

    x = of("embed")[token_ids]
    later = torch.ones(len(token_ids), len(token_ids)).triu(1).bool()
    for layer in range(LAYERS):
        normed = rms_norm(x, of("norm1", layer))
        q, k, v = model.queries_keys_values(normed, lambda role, layer=layer: of(role, layer))
        q, k = rotated(q), rotated(k)
        k, v = (part.repeat_interleave(HEADS // model.kv_heads, dim=1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / HEAD_DIM**0.5
        attended = torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)
        x = x + attended.flatten(1) @ of("out", layer).T
        normed = rms_norm(x, of("norm2", layer))
        gate = normed @ of("gate", layer).T
        x = x + (gate * gate.sigmoid() * (normed @ of("up", layer).T)) @ of("down", layer).T
    return rms_norm(x, of("norm")) @ model.head(of("head")).T


def checked(model: Relative, weights: Weights, path: Path, **settings: Any) -> None:
    for token_ids, logits in engine_logits(path, [random_prompt(40), random_prompt(5)], 6, **settings):
        expected = reference_logits(model, weights, token_ids)[:-1]
        assert expected.std() > 0.1
        assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", RELATIVES)
def test_logits_equal_the_reference(name: str, tmp_path: Path) -> None:
    model = RELATIVES[name]
    weights = random_weights(model)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **model.config}))
    checked(model, weights, tmp_path, max_batch_tokens=23)


@pytest.mark.parametrize("name", ["internlm2", "baichuan", "exaone"])
def test_gguf_files_have_queries_and_keys_as_llama_cpp_orders_them(name: str, tmp_path: Path) -> None:
    model = RELATIVES[name]
    weights = random_weights(model)
    checked(model, weights, write_gguf(name, model, weights, tmp_path / "model.gguf"))


def test_models_with_alibi_are_refused() -> None:
    config = {**SIZES, **BAICHUAN.config, "model_max_length": 4096}
    del config["max_position_embeddings"]
    with pytest.raises(ModelError, match=r"ALiBi .* not supported; supported: rotary positions \(7B\)"):
        read_config("safetensors", Checkpoint(config))
    fields = {"context_length": 64, "embedding_length": 32, "block_count": 40, "feed_forward_length": 48}
    fields |= {"attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": 64}
    metadata = {"general.architecture": "baichuan"} | {f"baichuan.{key}": value for key, value in fields.items()}
    with pytest.raises(ModelError, match="ALiBi"):
        read_config("gguf", Checkpoint(metadata))


def write_gguf(arch: str, model: Relative, weights: Weights, path: Path) -> Path:
    """Write the model as llama.cpp's converter does: projections apart, and for two models pairs that are neighbors."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_context_length(96)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    own = {"embed": "token_embd", "norm": "output_norm", "head": "output"}
    layers = {"norm1": "attn_norm", "norm2": "ffn_norm", "out": "attn_output"}
    layers |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for role, name in own.items():
        writer.add_tensor(f"{name}.weight", weights[f"{model.names[role]}.weight"].numpy())
    for layer in range(LAYERS):

        def of(role: str, layer: int = layer) -> Tensor:
            return weights[f"{model.names[role].format(layer)}.weight"]

        for role, name in layers.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", of(role).numpy())
        # The projections of unit vectors are the rows of the projections' matrices.
        for name, part in zip("qkv", model.queries_keys_values(torch.eye(HIDDEN), of), strict=True):
            rows = part.permute(1, 2, 0)  # [heads, head_dim, hidden]
            if name != "v" and arch != "exaone":
                rows = rows.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
            writer.add_tensor(f"blk.{layer}.attn_{name}.weight", rows.flatten(0, 1).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
