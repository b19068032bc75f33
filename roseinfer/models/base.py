"""What an architecture gives the engine: a model to run, and the names of its weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from roseinfer.attention.base import AttentionBackend, AttentionMetadata
from roseinfer.models.config import ModelConfig

Transform = Callable[[Tensor], Tensor]


class CausalLM(nn.Module, ABC):
    """A decoder-only language model over a step's packed tokens."""

    config: ModelConfig

    @abstractmethod
    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        """Token ids and positions [tokens] -> final hidden states [tokens, hidden_size]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, hidden_size] -> logits [rows, vocab_size]."""

    @abstractmethod
    def weight_views(self) -> dict[str, Tensor]:
        """Every weight to load, by its name in a Hugging Face checkpoint.

        A view has the checkpoint's shape and writes through into the model's own, possibly fused or transposed,
        parameter. Tied heads appear once.
        """


@dataclass(frozen=True)
class Architecture:
    """One registry line: how to recognize, describe and build a family of models."""

    name: str
    build: Callable[[ModelConfig], CausalLM]
    config_from_hf: Callable[[Mapping[str, Any]], ModelConfig]
    """From a Hugging Face config.json."""
    config_from_gguf: Callable[[Mapping[str, Any], Collection[str]], ModelConfig]
    """From GGUF metadata and the names of the file's tensors."""
    gguf_weight: Callable[[str, ModelConfig], tuple[str, Transform | None] | None]
    """A GGUF tensor's name -> (Hugging Face name, what undoes the converter's change); None: not a weight of ours."""
    hf_weight: Callable[[str], str | None] = lambda name: name
    """A checkpoint's name for a weight -> the name in `weight_views`; None: not a weight of ours."""
