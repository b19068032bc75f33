"""Weights in another form than a plain matrix, chosen for the kernels that multiply with it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class PackedWeight(ABC):
    """A weight [outputs, size] on a CPU."""

    @abstractmethod
    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W^T + b: bfloat16 or float32 x [rows, size] -> [rows, outputs] in x's dtype."""

    @abstractmethod
    def values(self, dtype: torch.dtype) -> Tensor:
        """The plain matrix, [outputs, size]."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """What a product reads, scales included."""


class PackedTable(PackedWeight):
    """A weight that can be looked up by row, too."""

    @abstractmethod
    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The values of some rows: [n] -> [n, size]."""

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """What one row takes."""
