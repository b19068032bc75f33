"""The interface of a decoder-only language model to the engine."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from roseinfer.attention.base import AttentionBackend, AttentionMetadata
from roseinfer.kernels.linear.packing import Packing
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import RMSNorm


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
