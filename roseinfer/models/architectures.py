"""The registry of architectures. Adding one takes a file that defines an `Architecture`, and a line here."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from roseinfer.errors import ModelError
from roseinfer.model_files import quoted, reason
from roseinfer.models.baichuan import BAICHUAN
from roseinfer.models.cohere import COHERE, COHERE2
from roseinfer.models.deepseek import DEEPSEEK
from roseinfer.models.dialect import Architecture, Checkpoint
from roseinfer.models.exaone import EXAONE
from roseinfer.models.exaone4 import EXAONE4
from roseinfer.models.fields import WatchedFields
from roseinfer.models.gemma2 import GEMMA, GEMMA2
from roseinfer.models.gemma3 import GEMMA3, GEMMA3_TEXT
from roseinfer.models.glm4 import GLM4
from roseinfer.models.gpt2 import GPT2_ARCHITECTURE
from roseinfer.models.gpt_neox import GPT_NEOX
from roseinfer.models.gpt_oss import GPT_OSS
from roseinfer.models.granite import GRANITE
from roseinfer.models.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from roseinfer.models.hf_defaults import HF_DEFAULTS
from roseinfer.models.internlm2 import INTERNLM2
from roseinfer.models.llama import LLAMA
from roseinfer.models.mistral import MINISTRAL, MISTRAL
from roseinfer.models.mixtral import MIXTRAL
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.olmo2 import OLMO2, OLMO3
from roseinfer.models.olmoe import OLMOE
from roseinfer.models.phi3 import PHI3
from roseinfer.models.qwen2 import QWEN2
from roseinfer.models.qwen2_moe import QWEN2_MOE
from roseinfer.models.qwen3 import QWEN3
from roseinfer.models.qwen3_moe import QWEN3_MOE
from roseinfer.models.seed_oss import SEED_OSS
from roseinfer.models.smollm3 import SMOLLM3
from roseinfer.models.stablelm import STABLELM
from roseinfer.models.starcoder2 import STARCODER2
from roseinfer.weights.resolve import SourceFormat

T = TypeVar("T")

ARCHITECTURES = {
    model.name: model
    for model in (
        LLAMA,
        MISTRAL,
        MINISTRAL,
        QWEN2,
        QWEN3,
        GPT2_ARCHITECTURE,
        BAICHUAN,
        COHERE,
        COHERE2,
        DEEPSEEK,
        EXAONE,
        EXAONE4,
        GEMMA,
        GEMMA2,
        GEMMA3,
        GEMMA3_TEXT,
        GLM4,
        GPT_NEOX,
        GPT_OSS,
        GRANITE,
        GRANITE_MOE,
        GRANITE_MOE_SHARED,
        MIXTRAL,
        INTERNLM2,
        OLMO2,
        OLMO3,
        OLMOE,
        PHI3,
        QWEN2_MOE,
        QWEN3_MOE,
        SEED_OSS,
        SMOLLM3,
        STABLELM,
        STARCODER2,
    )
}
"""Built-in architectures by name, and any that `register` added."""


def register(model: Architecture) -> None:
    """Add an architecture to the registry. Raises ModelError if its name is taken."""
    if model.name in ARCHITECTURES:
        raise ModelError(f"architecture {model.name!r} is already registered: choose another name")
    ARCHITECTURES[model.name] = model


def architecture(name: str) -> Architecture:
    """Return an architecture by its name, which is also its Hugging Face model_type and its name in GGUF files."""
    return _among(ARCHITECTURES, name)


def read_config(source_format: SourceFormat, checkpoint: Checkpoint) -> ModelConfig:
    """Convert a model's description to a ModelConfig. Raises ModelError for an unsupported feature."""
    if source_format == "trainer":
        name: object = "gpt2"  # trainer checkpoints have no field for the architecture
    else:
        key = "general.architecture" if source_format == "gguf" else "model_type"
        name = checkpoint.fields.get(key)
    known = {
        (model.gguf_name or model.name) if source_format == "gguf" else model.name: found
        for model in ARCHITECTURES.values()
        if (found := model.dialect(source_format)) is not None
    }
    dialect = _among(known, name)
    quantization = checkpoint.fields.get("quantization_config")
    if quantization and _method(quantization) not in dialect.quantizations:
        supported = ", ".join(("none", *dialect.quantizations))
        raise ModelError(
            f"quantization {quoted(_method(quantization))} is not supported; supported: {supported}, or a GGUF file"
        )
    defaults = HF_DEFAULTS.get(str(name), {}) if source_format in ("safetensors", "dummy") else {}
    fields = WatchedFields({**defaults, **checkpoint.fields})
    fields.has_types = source_format == "gguf"
    try:
        return dialect.config(replace(checkpoint, fields=fields))
    except ModelError:
        raise
    # A config can hold any JSON where a dialect expects a number or a list.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        last = fields.last_key
        value = "" if last is None else f", last of {last} = {quoted(fields.get(last))}"
        raise ModelError(f"the model's config cannot be used: {reason(error)}{value}") from error


def _method(quantization: Any) -> Any:
    return quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization


def _among(known: dict[str, T], name: object) -> T:
    if not isinstance(name, str) or name not in known:
        raise ModelError(f"architecture {quoted(name)} is not supported; supported: {', '.join(sorted(known))}")
    return known[name]
