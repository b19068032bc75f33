"""Tiny random models, saved by transformers, each with a byte-level tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

VOCAB_SIZE = 258
"""Number of tokens: the 256 bytes, then <s> and </s>."""

EOS = 257
CONTEXT = 128

LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "pad_token_id": None,
    # Large enough that logits differ clearly, and that completions do not repeat one token.
    "initializer_range": 0.3,
}

GPT2: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": CONTEXT,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "pad_token_id": None,
    "initializer_range": 0.3,
}


def save_llama(folder: Path, **changes: Any) -> Path:
    """Save a Llama with random weights, biases and norms included."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(LlamaForCausalLM, LlamaConfig(**{**LLAMA, **changes}), folder)


def save_mistral(folder: Path, **changes: Any) -> Path:
    """Save a Mistral with random weights, biases and norms included."""
    from transformers import MistralConfig, MistralForCausalLM

    return _save(MistralForCausalLM, MistralConfig(**{**LLAMA, **changes}), folder)


def save_ministral(folder: Path, **changes: Any) -> Path:
    """Save a Ministral with random weights, whose first and last of three layers have a window of 6 tokens."""
    from transformers import MinistralConfig, MinistralForCausalLM

    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    windows = {"num_hidden_layers": 3, "sliding_window": 6, "layer_types": layers, "head_dim": 8}
    return _save(MinistralForCausalLM, MinistralConfig(**{**LLAMA, **windows, **changes}), folder)


def save_gpt2(folder: Path, **changes: Any) -> Path:
    """Save a GPT-2 with random weights, biases and norms included."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _save(GPT2LMHeadModel, GPT2Config(**{**GPT2, **changes}), folder)


def copied_with(model: Path, folder: Path, files: dict[str, str]) -> Path:
    """Copy a saved model into a new directory, with further or other text files; return the directory."""
    shutil.copytree(model, folder)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of the object in a JSON file, which may be missing."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def _save(kind: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(1)
    model = kind(config)
    for parameter in model.parameters():
        # transformers initializes biases to 0 and norms to 1, which would hide a missing or swapped parameter.
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer with one token per byte, so that a text has as many tokens as bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
