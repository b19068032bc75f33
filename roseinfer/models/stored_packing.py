"""Weights that come quantized from their file and stay so: which layer each of them belongs to, and in which form."""

import torch
from torch import Tensor

from roseinfer.kernels.linear.quantized_linear import Groups, Int4Groups
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Transform
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear


class StoredPacking:
    """Takes a file's quantized weights one by one, and packs each layer once it is complete.

    A layer whose rows all come in 4-bit groups keeps them; any other one that is quantized in the file, or in part,
    gets 8-bit rows. Tables that tokens are only looked up in are dequantized.
    """

    def __init__(self, model: CausalLM) -> None:
        # A view of a weight tells by its memory whose rows it shows.
        self._owners: dict[int, Linear | Embedding] = {
            module.weight.untyped_storage().data_ptr(): module
            for module in model.modules()
            if isinstance(module, Linear) or (module is model.embed and model.config.tie_word_embeddings)
        }
        self._groups: dict[Linear, dict[int, Groups]] = {}
        self._to_8_bits: dict[Linear | Embedding, None] = {}

    def take_groups(self, view: Tensor, groups: Groups, transform: Transform | None) -> None:
        """Weights for one of the model's `weight_views`; `transform` is what makes a stored tensor fit it."""
        owner = self._owners.get(view.untyped_storage().data_ptr())
        if not isinstance(owner, Linear) or not Int4Groups.fits(owner.weight):
            values = groups.values(view.dtype)
            view.copy_(values if transform is None else transform(values))
            self.take_dequantized(view)
            return
        if transform is not None:
            groups = Groups(*map(transform, groups))  # row by row, or transposed: the same for all three
        if view.stride(1) != 1:
            groups = Groups(*(plane.t() for plane in groups))
        self._groups.setdefault(owner, {})[view.storage_offset() // owner.weight.shape[1]] = groups
        self._pack_if_complete(owner)

    def take_dequantized(self, view: Tensor) -> None:
        """A view that was filled, whose values are quantized in the file in another way."""
        owner = self._owners.get(view.untyped_storage().data_ptr())
        if owner is not None:
            self._to_8_bits[owner] = None

    def finish(self) -> None:
        """Pack what did not come in 4 bits as a whole."""
        for linear, parts in self._groups.items():
            for start, groups in parts.items():
                linear.weight[start : start + len(groups.codes)] = groups.values(linear.weight.dtype)
            self._to_8_bits[linear] = None
        for owner in self._to_8_bits:
            if isinstance(owner, Linear):
                owner.pack("int8")
            else:
                owner.pack_head("int8")

    def _pack_if_complete(self, linear: Linear) -> None:
        parts = [self._groups[linear][start] for start in sorted(self._groups[linear])]
        if sum(len(groups.codes) for groups in parts) == linear.weight.shape[0]:
            del self._groups[linear]
            linear.keep(Groups(*map(torch.cat, zip(*parts, strict=True))))
