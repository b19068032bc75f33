"""The interface of a decoder-only language model to the engine."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.kernels.linear.form_choice import Packing
from roseinfer.models.embedding import Embedding
from roseinfer.models.experts import ExpertLinear
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.weight_map import WeightMap


class CausalLM(nn.Module, ABC):
    """A decoder-only language model. One call computes the tokens of a step, packed into one dimension."""

    config: ModelConfig
    embed: Embedding
    head: Linear | None
    """The output head, or None if `embed` is the head as well."""

    @abstractmethod
    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: AttentionMetadata,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute the final hidden states [tokens, hidden_size] from token ids and positions [tokens].

        With `rows`, indexes of tokens, only their hidden states are computed and returned, [rows, hidden_size]. They
        must be the last tokens of the requests in `StepLayout.last`.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits [rows, vocab_size] from hidden states [rows, hidden_size]."""

    def pack(self, packing: Packing = "none") -> None:
        """Choose the form of every loaded weight, by device, dtype and quantization. A loader calls this once."""
        for module in self.modules():
            if isinstance(module, Linear | ExpertLinear):
                module.pack(packing)
            elif isinstance(module, RMSNorm):
                module.pack()
        if self.head is None:
            self.embed.pack_head(packing)

    @abstractmethod
    def weight_map(self) -> WeightMap:
        """Map each tensor to load, by its name in a Hugging Face checkpoint, to its slot. Tied heads appear once."""

    def weight_views(self) -> dict[str, Tensor]:
        """Return every weight in its checkpoint's shape, by its name in a Hugging Face checkpoint.

        Writing to a view fills the model's parameter, even a fused or transposed one, but not a packed one.
        """
        return {name: slot.view for name, slot in self.weight_map().items()}
