"""The interface of a decoder-only language model to the engine."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.errors import ModelError
from roseinfer.kernels.linear.form_choice import Packing
from roseinfer.models.embedding import Embedding
from roseinfer.models.experts import ExpertLinear
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
from roseinfer.models.weight_map import WeightMap
from roseinfer.models.weight_slices import RankSlice, RankSlices
from roseinfer.weights.stored_tensor import Range


class CausalLM(nn.Module, ABC):
    """A decoder-only language model. One call computes the tokens of a step, packed into one dimension."""

    config: ModelConfig
    embed: Embedding
    head: Linear | None
    """The output head, or None if `embed` is the head as well."""
    ranks: RankGroup | None = None
    """Ranks that divide the model; None: this process runs all of it."""
    head_rows: Range = (0, 0)
    """Rows of the output head that this rank has, padding included, if there are several ranks."""

    @abstractmethod
    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: Sequence[AttentionMetadata],
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute the final hidden states [tokens, hidden_size] from token ids and positions [tokens].

        `metadata` has the result of `AttentionBackend.prepare` for each group of layers.

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

    def head_logits(self, hidden: Tensor) -> Tensor:
        """Multiply by the output head, or by this rank's part: [rows, hidden_size] -> [rows, vocab_size or less]."""
        return self.embed.logits(hidden) if self.head is None else self.head.linear(hidden)

    def rank_logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of this rank's part of the vocabulary, padding included; without ranks, all logits."""
        return self.logits(hidden)

    @property
    def rank_tokens(self) -> Range:
        """The tokens of this rank's part of the vocabulary, without padding."""
        vocab_size = self.config.vocab_size
        return min(self.head_rows[0], vocab_size), min(self.head_rows[1], vocab_size)

    def gathered(self, logits: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary, from those of this rank's part of the head."""
        return logits if self.ranks is None else self.ranks.gather(logits)[:, : self.config.vocab_size]

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        """Return the norms whose input is the output of an attention or MLP, of which each rank computes a summand."""
        raise ModelError(f"--tensor-parallel does not support the {self.config.architecture} architecture: drop it")

    def divide_head(self, ranks: RankGroup, rows: Range) -> RankSlices:
        """Hold some rows of the output head only, padding included. Returns the slices of its weights."""
        self.ranks, self.head_rows = ranks, rows
        first, stop = rows
        vocab_size, num_rows = self.config.vocab_size, stop - first
        if self.head is None:
            self.embed.divide_head(first, stop, ranks.size * num_rows)
            return {}
        self.head = Linear(self.config.hidden_size, num_rows, bias=self.head.bias is not None)
        first, stop = self.rank_tokens
        padding = num_rows - (stop - first)
        part = RankSlice(0, vocab_size, ((first, stop),), padding=padding)
        return dict.fromkeys(self.head.weight_map().values(), part)

    @abstractmethod
    def weight_map(self) -> WeightMap:
        """Map each tensor to load, by its name in a Hugging Face checkpoint, to its slot. Tied heads appear once."""

    def weight_views(self) -> dict[str, Tensor]:
        """Return every weight in its checkpoint's shape, by its name in a Hugging Face checkpoint.

        Writing to a view fills the model's parameter, even a fused or transposed one, but not a packed one.
        """
        return {name: slot.view for name, slot in self.weight_map().items()}
