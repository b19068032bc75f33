"""Dialects: the way a checkpoint format describes an architecture and names its weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.model_config import ModelConfig
from roseinfer.weights.resolve import SourceFormat

Transform = Callable[[Tensor], Tensor]
"""Function that converts a stored tensor to the layout of its weight view."""

WeightPlace = tuple[str, Transform | None]
"""A name in the model's weight map, and the transform that makes the stored tensor fit that slot, if any."""


WeightPlaces = WeightPlace | list[WeightPlace]
"""The place of a stored tensor, or the places of its parts: each transform then cuts out one part."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's description as its files contain it, without the weights."""

    fields: Mapping[str, Any]
    """The object in config.json, the metadata of a GGUF file, or the config in a trainer checkpoint."""
    tensor_names: Collection[str] = ()
    """Names of the stored tensors; empty for dummy weights."""
    read: Callable[[str], Tensor] | None = None
    """Function that reads a stored tensor in float32. Only GGUF has one, because some of its settings are tensors."""


@dataclass(frozen=True)
class Dialect:
    """Functions that read one architecture's config and weight names in one checkpoint format."""

    config: Callable[[Checkpoint], ModelConfig]
    """Function that converts a checkpoint's description to a ModelConfig."""
    weight: Callable[[str, ModelConfig], WeightPlaces | None]
    """Function that maps a stored tensor's name to its places in the model, or to None if the tensor is skipped."""
    quantizations: tuple[str, ...] = ()
    """Values of quant_method in a config.json whose weights the reader dequantizes."""


@dataclass(frozen=True)
class Architecture:
    """A family of models: the function that builds one, and a dialect per checkpoint format it can be read from."""

    name: str
    build: Callable[[ModelConfig], CausalLM]
    hugging_face: Dialect
    gguf: Dialect | None = None
    trainer: Dialect | None = None
    gguf_name: str | None = None
    """Name of the architecture in GGUF files, if it differs."""

    def dialect(self, source_format: SourceFormat) -> Dialect | None:
        """Return the dialect of a file format, or None if this architecture is not read from that format."""
        if source_format == "gguf":
            return self.gguf
        return self.trainer if source_format == "trainer" else self.hugging_face
