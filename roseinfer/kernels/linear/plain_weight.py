"""Weights as plain matrices, multiplied by torch's own kernels."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.linear.weight_form import TableForm, WeightForm


class PlainWeight(WeightForm):
    """A row-major matrix [outputs, size]. It shares memory with the parameter, so a loader may still fill it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight, bias)

    def tail(self, outputs: int) -> Self:
        return type(self)(self.weight[-outputs:])

    def values(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class PlainTable(TableForm):
    """A row-major table [rows, size]. The first `num_rows` rows are in use; the others are padding."""

    def __init__(self, table: Tensor, num_rows: int) -> None:
        self.table = table
        self.num_rows = num_rows

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(x, self.table[: self.num_rows])
        return out if bias is None else out + bias

    def values(self, dtype: torch.dtype) -> Tensor:
        return self.table[: self.num_rows].to(dtype)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.table)

    @property
    def nbytes(self) -> int:
        return self.num_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return self.table.shape[1] * self.table.itemsize
