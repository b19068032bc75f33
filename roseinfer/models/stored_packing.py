"""Packing of weights that are quantized in their file and stay quantized in memory."""

from roseinfer.kernels.experts.expert_weights import StackedExperts
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Transform
from roseinfer.models.embedding import Embedding
from roseinfer.models.expert_names import ExpertRows
from roseinfer.models.experts import ExpertLinear
from roseinfer.models.linear import Linear
from roseinfer.models.weight_map import WeightSlot


class StoredPacking:
    """Collects a file's quantized weights one by one, and packs each layer once it is complete.

    A layer whose rows are all stored in 4-bit groups keeps their codes. A layer that is quantized in another way, or
    only in part, gets 8-bit rows. Tables that are only looked up are dequantized.
    """

    def __init__(self, model: CausalLM) -> None:
        self._tied_table = model.embed if model.head is None else None
        self._groups: dict[Linear | ExpertLinear, dict[int, QuantizedWeight]] = {}
        """4-bit weights of layers with rows still to come, by their first row."""
        self._to_8_bits: dict[Linear | ExpertLinear | Embedding, None] = {}

    def add_groups(self, slot: WeightSlot, groups: QuantizedWeight, transform: Transform | None) -> None:
        """Add the 4-bit weights of a slot, after applying the transform that makes a stored tensor fit it."""
        linear = slot.module
        if not isinstance(linear, Linear | ExpertLinear) or not _takes_groups(linear):
            view = slot.view
            if isinstance(transform, ExpertRows):
                groups, transform = groups.mapped(transform), None  # the stored tensor has all experts
            values = groups.values(view.dtype)
            view.copy_(values if transform is None else transform(values))
            self.add_dequantized(slot)
            return
        if transform is not None:
            groups = groups.mapped(transform)
        if slot.transposed:
            groups = groups.mapped(lambda plane: plane.t())
        self._groups.setdefault(linear, {})[slot.first_row] = groups
        self._pack_if_complete(linear)

    def add_dequantized(self, slot: WeightSlot) -> None:
        """Mark the layer of a filled slot for 8 bits: its tensor was quantized, but not in 4-bit groups."""
        if isinstance(slot.module, Linear | ExpertLinear) or slot.module is self._tied_table:
            self._to_8_bits[slot.module] = None

    def finish(self) -> None:
        """Pack the remaining layers to 8 bits. Layers made of 4-bit groups alone are packed already."""
        for linear, parts in self._groups.items():
            for start, groups in parts.items():
                linear.weight[start : start + len(groups.codes)] = groups.values(linear.weight.dtype)
            self._to_8_bits[linear] = None
        for owner in self._to_8_bits:
            if isinstance(owner, Embedding):
                owner.pack_head("int8")
            else:
                owner.pack("int8")

    def _pack_if_complete(self, linear: Linear | ExpertLinear) -> None:
        parts = [self._groups[linear][start] for start in sorted(self._groups[linear])]
        if sum(len(groups.codes) for groups in parts) == linear.weight.shape[0]:
            del self._groups[linear]
            linear.pack_quantized(QuantizedWeight.concatenated(parts))


def _takes_groups(linear: Linear | ExpertLinear) -> bool:
    """True if the layer's matrix, or each expert's, can be packed in 4-bit groups."""
    form = linear.form
    return Int4Groups.fits(form.stacked[0] if isinstance(form, StackedExperts) else linear.weight)
