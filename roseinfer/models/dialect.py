"""How each checkpoint format describes an architecture, and names its weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.model_config import ModelConfig
from roseinfer.weights.resolve import SourceFormat

Transform = Callable[[Tensor], Tensor]
"""Converts a stored tensor to the layout of its weight view."""

WeightPlace = tuple[str, Transform | None]
"""A name in `weight_views`, and the transform that makes the stored tensor fit that view."""


@dataclass(frozen=True)
class Checkpoint:
    """What the files of a model say of it, besides the weights."""

    fields: Mapping[str, Any]
    """config.json's object, GGUF metadata, or a trainer's config."""
    tensor_names: Collection[str] = ()
    """None for dummy weights."""
    read: Callable[[str], Tensor] | None = None
    """Reads one of the tensors, in float32; only with GGUF, which keeps some of the shape in tensors."""


@dataclass(frozen=True)
class Dialect:
    """How one format describes an architecture and names its weights."""

    config: Callable[[Checkpoint], ModelConfig]
    weight: Callable[[str, ModelConfig], WeightPlace | None]
    """A stored tensor's name -> where it goes; None for what is not a weight of ours."""


@dataclass(frozen=True)
class Architecture:
    """One registry line: how to build a family of models, and how to read it from each format that has it."""

    name: str
    build: Callable[[ModelConfig], CausalLM]
    hugging_face: Dialect
    gguf: Dialect | None = None
    trainer: Dialect | None = None

    def dialect(self, source_format: SourceFormat) -> Dialect | None:
        """Return the dialect of a file format, or None if this architecture is not read from that format."""
        if source_format == "gguf":
            return self.gguf
        return self.trainer if source_format == "trainer" else self.hugging_face
