"""Weight maps: for each tensor of a checkpoint, the module and the rows of its parameter that hold the values.

Each module declares its own part of the map, by names relative to the module. A model composes the parts. Loading,
packing and the byte and parameter counts all read the same map, so a fused layout is declared once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class WeightSlot:
    """The place of one checkpoint tensor: some rows of a module's parameter."""

    module: nn.Module
    attribute: str
    """Name of the parameter, or of the property that returns it as a plain matrix."""
    first_row: int = 0
    num_rows: int | None = None
    """Number of rows; None: all rows of the parameter."""
    transposed: bool = False
    """True if the checkpoint stores a matrix as [in_features, out_features]."""

    @property
    def view(self) -> Tensor:
        """The rows in the checkpoint's shape. Writing to the view fills the parameter, unless it is packed."""
        rows: Tensor = getattr(self.module, self.attribute)
        if self.num_rows is not None:
            rows = rows[self.first_row : self.first_row + self.num_rows]
        return rows.t() if self.transposed else rows


WeightMap = dict[str, WeightSlot]
"""Slots by the tensor's name in a Hugging Face checkpoint, relative to the module that declares the map."""


class HasWeights(Protocol):
    """A module that declares its part of a weight map."""

    def weight_map(self) -> WeightMap:
        """Map the names of this module's checkpoint tensors to their slots."""
        ...


def compose(modules: Mapping[str, HasWeights | None]) -> WeightMap:
    """Join the weight maps of modules by name, adding each name that is not empty as a prefix. None is skipped."""
    return {
        f"{prefix}.{name}" if prefix else name: slot
        for prefix, module in modules.items()
        if module is not None
        for name, slot in module.weight_map().items()
    }


def own_weights(module: nn.Module) -> WeightMap:
    """Return the weight map of a module whose checkpoint tensors are `weight` and, if there is one, `bias`."""
    has_bias = getattr(module, "bias", None) is not None
    return {name: WeightSlot(module, name) for name in ("weight", "bias") if name == "weight" or has_bias}
