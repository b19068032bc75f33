"""Weights that come quantized from their file and stay so: which layer each of them belongs to, and in which form."""

import torch

from roseinfer.kernels.linear.quantized_linear import Groups, Int4Groups
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Transform
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear
from roseinfer.models.weight_map import WeightSlot


class StoredPacking:
    """Takes a file's quantized weights one by one, and packs each layer once it is complete.

    A layer whose rows all come in 4-bit groups keeps them; any other one that is quantized in the file, or in part,
    gets 8-bit rows. Tables that tokens are only looked up in are dequantized.
    """

    def __init__(self, model: CausalLM) -> None:
        self._tied_table = model.embed if model.head is None else None
        self._groups: dict[Linear, dict[int, Groups]] = {}
        self._to_8_bits: dict[Linear | Embedding, None] = {}

    def take_groups(self, slot: WeightSlot, groups: Groups, transform: Transform | None) -> None:
        """Weights for one of the model's slots; `transform` is what makes a stored tensor fit it."""
        linear = slot.module
        if not isinstance(linear, Linear) or not Int4Groups.fits(linear.weight):
            view = slot.view
            values = groups.values(view.dtype)
            view.copy_(values if transform is None else transform(values))
            self.take_dequantized(slot)
            return
        if transform is not None:
            groups = Groups(*map(transform, groups))  # row by row, or transposed: the same for all three
        if slot.transposed:
            groups = Groups(*(plane.t() for plane in groups))
        self._groups.setdefault(linear, {})[slot.first_row] = groups
        self._pack_if_complete(linear)

    def take_dequantized(self, slot: WeightSlot) -> None:
        """A slot that was filled, whose values are quantized in the file in another way."""
        if isinstance(slot.module, Linear) or slot.module is self._tied_table:
            self._to_8_bits[slot.module] = None

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
