"""What an architecture gives the engine: a model to run, its shape, and the names of its weights in each format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from roseinfer.attention.base import AttentionBackend, AttentionMetadata
from roseinfer.kernels.linear.packing import Packing
from roseinfer.models.config import ModelConfig
from roseinfer.models.layers import Embedding, Linear, RMSNorm

Transform = Callable[[Tensor], Tensor]
WeightPlace = tuple[str, Transform | None]
"""A name in `weight_views`, and what to do to the stored tensor to get its values."""


class CausalLM(nn.Module, ABC):
    """A decoder-only language model over a step's packed tokens."""

    config: ModelConfig
    embed: Embedding

    @abstractmethod
    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        """Token ids and positions [tokens] -> final hidden states [tokens, hidden_size]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, hidden_size] -> logits [rows, vocab_size]."""

    def pack(self, packing: Packing = "none") -> None:
        """Bring the loaded weights into the form that a CPU's kernels read; on other devices nothing happens."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack(packing)
            elif isinstance(module, RMSNorm):
                module.pack()
        if self.config.tie_word_embeddings:
            self.embed.pack_head(packing)

    @abstractmethod
    def weight_views(self) -> dict[str, Tensor]:
        """Every weight to load, by its name in a Hugging Face checkpoint.

        A view has the checkpoint's shape and writes through into the model's own, possibly fused or transposed,
        parameter, as long as that is not packed. Tied heads appear once.
        """


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
