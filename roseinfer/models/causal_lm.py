"""The interface of a decoder-only language model to the engine."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.kernels.linear.form_choice import Packing
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.weight_map import WeightMap


class CausalLM(nn.Module, ABC):
    """A decoder-only language model over a step's packed tokens."""

    config: ModelConfig
    embed: Embedding
    head: Linear | None
    """None if `embed` is the output head as well."""

    @abstractmethod
    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        """Token ids and positions [tokens] -> final hidden states [tokens, hidden_size]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, hidden_size] -> logits [rows, vocab_size]."""

    def pack(self, packing: Packing = "none") -> None:
        """Choose the form of every loaded weight, by device, dtype and quantization. A loader calls this once."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack(packing)
            elif isinstance(module, RMSNorm):
                module.pack()
        if self.head is None:
            self.embed.pack_head(packing)

    @abstractmethod
    def weight_map(self) -> WeightMap:
        """Return the slot of every weight to load, by its name in a Hugging Face checkpoint. Tied heads appear once."""

    def weight_views(self) -> dict[str, Tensor]:
        """Return every weight in its checkpoint's shape, by its name in a Hugging Face checkpoint.

        Writing to a view fills the model's own parameter, fused or transposed as it may be, unless it is packed.
        """
        return {name: slot.view for name, slot in self.weight_map().items()}
