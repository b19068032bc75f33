"""Everything that this version runs: architectures, formats, quantizations, tokenizers, shapes, from their registries.

Imports torch: the command imports this module only when it runs.
"""

from typing import get_args

import msgspec
import numpy as np
import torch

from roseinfer.config import DTypeName, EngineConfig, QuantizeName
from roseinfer.engine.device import resolve_quantization
from roseinfer.errors import UsageError
from roseinfer.models.architectures import ARCHITECTURES
from roseinfer.models.shapes import SHAPES
from roseinfer.text.directory_tokenizer import WORDS_OF
from roseinfer.text.gguf_pretokenizers import PRE_TOKENIZERS
from roseinfer.text.gguf_vocabulary import KINDS
from roseinfer.text.rank_file import VOCABULARIES
from roseinfer.weights.gguf_groups import GROUPED_TYPES


class ArchitectureEntry(msgspec.Struct, frozen=True):
    """One architecture, and its name in each format; None if it is not read from that format."""

    model_type: str
    """Name in config.json."""
    gguf: str | None
    """`general.architecture` of GGUF files."""
    trainer: bool
    """True if a trainer's checkpoint may hold the architecture."""


class QuantizationEntry(msgspec.Struct, frozen=True):
    """How a type of weights in GGUF files is kept in memory."""

    type: str
    cpu: str
    gpu: str


class SettingEntry(msgspec.Struct, frozen=True):
    """A value of an option, and where it runs."""

    setting: str
    cpu: bool
    gpu: bool


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `roseinfer models` lists."""

    schema_version: int = 1
    architectures: list[ArchitectureEntry]
    quantizations: list[QuantizationEntry]
    settings: list[SettingEntry]
    gguf_tokenizers: list[str]
    """Values of `tokenizer.ggml.model`."""
    gguf_pre_tokenizers: list[str]
    """Values of `tokenizer.ggml.pre`."""
    vocab_json_classes: list[str]
    """Values of `tokenizer_class`, or else of `model_type`, for a vocab.json with merges.txt."""
    tiktoken_files: list[str]
    shapes: list[str]
    """Built-in shapes for `--load-format dummy`."""


def catalogue() -> Catalogue:
    """Return what this version runs."""
    return Catalogue(
        architectures=[
            ArchitectureEntry(
                each.name,
                None if each.gguf is None else each.gguf_name or each.name,
                each.trainer is not None,
            )
            for each in sorted(ARCHITECTURES.values(), key=lambda each: each.name)
        ],
        quantizations=_quantizations(),
        settings=_settings(),
        gguf_tokenizers=list(KINDS),
        gguf_pre_tokenizers=sorted(PRE_TOKENIZERS),
        vocab_json_classes=list(WORDS_OF),
        tiktoken_files=[each.name for each in VOCABULARIES.values()],
        shapes=list(SHAPES),
    )


def _quantizations() -> list[QuantizationEntry]:
    """Return the quantized types of GGUF that the gguf package dequantizes."""
    import gguf

    entries: list[QuantizationEntry] = []
    for kind, (block_size, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        if block_size == 1:
            continue
        try:
            gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            continue
        kept = "its 4-bit groups" if kind.name in GROUPED_TYPES else "int8"
        entries.append(QuantizationEntry(kind.name, kept, "dequantized"))
    return entries


def _settings() -> list[SettingEntry]:
    quantized = [
        SettingEntry(f"--quantize {name}", *(_quantizes(name, device) for device in ("cpu", "cuda")))
        for name in get_args(QuantizeName)
        if name != "auto"
    ]
    dtypes = [SettingEntry(f"--dtype {name}", cpu=True, gpu=True) for name in get_args(DTypeName) if name != "auto"]
    return [*dtypes, *quantized]


def _quantizes(name: QuantizeName, device: str) -> bool:
    try:
        resolve_quantization(EngineConfig(quantize=name), torch.device(device), torch.bfloat16, is_gguf=False)
    except UsageError:
        return False
    return True
