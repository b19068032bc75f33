"""Slices of checkpoint tensors: the part that one of several ranks holds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.models.model_config import ModelConfig
from roseinfer.models.weight_map import WeightSlot
from roseinfer.weights.stored_tensor import Range, StoredPart


@dataclass(frozen=True)
class RankSlice:
    """The part of a checkpoint tensor that a rank holds, in the shape of the tensor's weight view."""

    dim: int
    size: int
    """Size of the whole tensor along `dim`."""
    ranges: tuple[Range, ...]
    """Index ranges along `dim` that the rank holds, in this order."""
    padding: int = 0
    """Zeros after them."""

    def of(self, whole: Tensor) -> Tensor:
        """Return the rank's part of a whole tensor: a view where it is one range."""
        parts = [whole.narrow(self.dim, start, stop - start) for start, stop in self.ranges]
        joined = parts[0] if len(parts) == 1 else torch.cat([*parts, whole.narrow(self.dim, 0, 0)], self.dim)
        return self.padded(joined)

    def rows(self, order: Tensor) -> Tensor:
        """Return the elements of a vector with an entry per index along `dim` that the rank holds."""
        return torch.cat([order[:0], *(order[start:stop] for start, stop in self.ranges)])

    def padded(self, kept: Tensor) -> Tensor:
        """Return what the ranges hold with the padding after it."""
        shape = list(kept.shape)
        shape[self.dim] = self.padding
        return torch.cat((kept, kept.new_zeros(shape)), self.dim) if self.padding else kept

    def whole_shape(self, part: Tensor) -> tuple[int, ...]:
        """Return the shape of the whole tensor, from that of the rank's part."""
        shape = list(part.shape)
        shape[self.dim] = self.size
        return tuple(shape)


RankSlices = dict[WeightSlot, RankSlice]
"""Slices of the weights that a rank holds in part, by the slot that the part fills."""


@dataclass(frozen=True)
class RankPart:
    """The part of a model that one of several ranks holds."""

    whole: ModelConfig
    """The whole model."""
    slices: RankSlices


def stored_part(
    kept: RankSlice, transform: Callable[[Tensor], Tensor] | None
) -> tuple[StoredPart, Callable[[Tensor], Tensor] | None]:
    """Return what to read of a stored tensor so that it becomes a slice, and the transform of what was read.

    `transform` makes the whole tensor fit its weight view: it transposes a matrix or reorders rows. A reader then reads
    the rows in their new order.
    """
    if transform is Tensor.t:
        return _part(1 - kept.dim, kept), transform
    if transform is None:
        return _part(kept.dim, kept), None
    return StoredPart(rows=kept.rows(transform(torch.arange(kept.size)))), None


def _part(dim: int, kept: RankSlice) -> StoredPart:
    if dim == 1:
        return StoredPart(columns=kept.ranges)
    return StoredPart(rows=kept.rows(torch.arange(kept.size)))
