"""Kinds of model files that `tests/fuzz_inputs.py` damages, each with the tokens of the whole model.

Formats without checksums cannot notice every damage: a changed rotary base is another valid model. So the kinds change
structure (counts, lengths, types, places, names, ends, nesting), where damage must be noticed, and give values of wrong
types and sizes.
"""

import json
import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from fuzz_kind import ODD, Kind, Result, run_file
from safetensors.torch import save_file

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.weights.trainer_checkpoint import TrainerReader

LLAMA = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def tokens_of(model: Path) -> list[int]:
    """Return the greedy tokens of a model for a prompt of token ids."""
    engine = build_engine(EngineConfig(model=str(model), dtype="float32", device="cpu", compile=False))
    return engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=4, stop_on_eos=False))[0].token_ids


def weights() -> dict[str, np.ndarray]:
    """Return the weights of a tiny Llama under their Hugging Face names."""
    rng = np.random.default_rng(0)
    hidden, inner, kv = 32, 48, 16
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, hidden), "lm_head.weight": (64, hidden)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.{name}_proj.weight": (size, hidden) for name, size in zip("qkv", (32, kv, kv), strict=True)
        }
        shapes |= {f"{at}.self_attn.o_proj.weight": (hidden, hidden), f"{at}.mlp.down_proj.weight": (hidden, inner)}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{at}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    shapes["model.norm.weight"] = (hidden,)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm", "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_kind(folder: Path) -> Kind:
    path = folder / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(64)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_custom_alignment(32)
    for name, values in weights().items():
        for theirs, ours in _GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = path.read_bytes()
    places, entries, start = _gguf_structure(whole)

    def damage(rng: random.Random) -> bytes:
        data = bytearray(whole)
        what = rng.randrange(6)
        if what == 0:
            return bytes(data[: rng.randrange(len(data) - 32)])
        if what == 1:  # an entry of the table twice, in the place of another, or two exchanged
            one, other = rng.sample(entries, 2)
            if rng.random() < 0.5 and one[1] - one[0] == other[1] - other[0]:
                data[one[0] : one[1]] = whole[other[0] : other[1]]
                return bytes(data)
            return whole[: one[0]] + whole[other[0] : other[1]] + whole[one[1] :]
        if what == 2:  # bytes come or go in the header
            at = rng.randrange(24, start)
            return whole[:at] + rng.randbytes(rng.choice([1, 8, 32])) * rng.randrange(2) + whole[at + 8 :]
        for _ in range(rng.choice([1, 1, 2])):
            at, size = rng.choice(places)
            if rng.random() < 0.5:
                data[at + rng.randrange(size)] ^= 1 << rng.randrange(8)
            else:
                value = rng.choice([0, 1, 2, 31, 33, 255, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1])
                data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        return bytes(data)

    expected = tokens_of(path)
    return Kind("GGUF", damage, run_file(folder / "damaged.gguf", tokens_of), lambda found: found == expected)


def _gguf_structure(data: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Return ((start, size) of the structural numbers, (start, end) of the tensors' entries, end of the header)."""
    places: list[tuple[int, int]] = [(4, 4), (8, 8), (16, 8)]
    num_tensors, num_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def text() -> None:
        nonlocal at
        places.append((at, 8))
        at += 8 + struct.unpack_from("<Q", data, at)[0]

    for _ in range(num_keys):
        text()
        kind = struct.unpack_from("<I", data, at)[0]
        places.append((at, 4))
        at += 4
        if kind == 8:
            text()
        elif kind == 9:
            count = struct.unpack_from("<Q", data, at + 4)[0]
            places += [(at, 4), (at + 4, 8)]
            at += 12
            for _ in range(count):
                text()
        else:
            at += sizes[kind]
    entries = []
    for _ in range(num_tensors):
        begin = at
        text()
        dimensions = struct.unpack_from("<I", data, at)[0]
        places += [(at, 4), *((at + 4 + 8 * place, 8) for place in range(dimensions))]
        at += 4 + 8 * dimensions
        places += [(at, 4), (at + 4, 8)]
        at += 12
        entries.append((begin, at))
    return places, entries, at


def _llama_folder(folder: Path) -> Path:
    folder.mkdir()
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", **LLAMA}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: torch.from_numpy(values) for name, values in weights().items()}, folder / "model.safetensors")
    return folder


def safetensors_kind(folder: Path) -> Kind:
    model = _llama_folder(folder / "safetensors")
    path = model / "model.safetensors"
    whole, expected = path.read_bytes(), tokens_of(model)
    size = struct.unpack_from("<Q", whole)[0]
    header: dict[str, Any] = json.loads(whole[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]

    def damage(rng: random.Random) -> bytes:
        what = rng.randrange(5)
        if what == 0:
            return whole[: rng.randrange(len(whole))]
        if what == 1:
            data = bytearray(whole)
            data[rng.randrange(8)] ^= 1 << rng.randrange(8)
            return bytes(data)
        if what == 2:  # bytes in the header, but not inside a name of a dtype
            data = bytearray(whole)
            data[8 + rng.randrange(size)] = rng.choice(b'\0{}[]":, x-\xff')
            return bytes(data)
        changed = json.loads(json.dumps(header))
        entry = changed[rng.choice(names)]
        if what == 3:
            entry[rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(
                [*ODD, "I32", "U32", "F64", "BOOL", [0, 0]]
            )
        else:
            entry["data_offsets"][rng.randrange(2)] += rng.choice([-64, -4, 4, 64, 1 << 40])
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + size :]

    return Kind("safetensors", damage, run_file(path, lambda _: tokens_of(model)), lambda found: found == expected)


def config_json_kind(folder: Path) -> Kind:
    model = _llama_folder(folder / "config")
    path = model / "config.json"
    text, expected = path.read_text(), tokens_of(model)
    config: dict[str, Any] = json.loads(text)

    def damage(rng: random.Random) -> bytes:
        what = rng.randrange(4)
        if what == 0:
            return text[: rng.randrange(len(text))].encode()
        if what == 1:
            key = rng.choice(list(config))  # a second time
            return (text[:-1] + f', "{key}": {json.dumps(rng.choice(ODD))}}}').encode()
        if what == 2:
            depth = rng.choice([1, 50, 5000, 200_000])
            return text.replace("10000.0", "[" * depth + "]" * depth).encode()
        keys = [*config, "head_dim", "tie_word_embeddings", "attention_bias", "rope_scaling", "rope_parameters"]
        key, value = rng.choice(keys), rng.choice(ODD)
        if key == "rope_theta" and isinstance(value, (int, float)):
            value = -1.0  # a positive number would be another valid model
        return json.dumps({**config, key: value}).encode()

    def same(found: Result) -> bool:
        return bool(found == expected)

    return Kind("config.json", damage, run_file(path, lambda _: tokens_of(model)), same)


def checkpoint_kind(folder: Path) -> Kind:
    path = folder / "run.pt"
    state = {f"w{place}": torch.randn(3, 5, generator=torch.Generator().manual_seed(place)) for place in range(4)}
    torch.save({"model": state, "config": {"d_model": 8, "name": "x"}, "step": 3}, path)
    whole = path.read_bytes()

    def read(file: Path) -> Result:
        reader = TrainerReader(file)
        return {name: tensor.tolist() for name, tensor in reader.tensors(torch.float32)}, reader.description

    def damage(rng: random.Random) -> bytes:
        data = bytearray(whole)
        if rng.random() < 0.2:
            return whole[: rng.randrange(len(whole))]
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(4, len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    expected = read(path)
    return Kind(".pt", damage, run_file(folder / "damaged.pt", read), lambda found: found == expected)
