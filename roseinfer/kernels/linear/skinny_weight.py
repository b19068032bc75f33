"""Plain weights on a GPU: few rows are multiplied by kernels that fuse the norm, activation and residual addition.

`skinny_linear` decides per shape, by measurements, which products are fused. The others run in cuBLAS.
"""

import torch
from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.embedding_rows import Rows, embedding_rows
from roseinfer.kernels.linear.plain_weight import PlainTable, PlainWeight
from roseinfer.kernels.linear.skinny_linear import fused_linear, skinny_linear
from roseinfer.kernels.linear.weight_form import NormBefore, TableForm

_MANY_ROWS = 1024
"""Rows from which cuBLAS adds the product to the residual stream, in place. The norm after it then moves half as much
memory."""


class SkinnyWeight(PlainWeight):
    """A row-major matrix on a GPU, multiplied by fused kernels where they are faster."""

    def linear(self, x: Tensor, bias: Tensor | None = None, activation: Activation | None = None) -> Tensor:
        return skinny_linear(x, self.weight, bias, activation=activation)

    def after_norm(
        self,
        norm: NormBefore,
        hidden: Tensor,
        residual: Tensor | None,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            out = fused_linear(hidden, self.weight, bias, norm=norm.description, activation=activation)
            if out is not None:
                return out, hidden
        normed, stream = norm.after(hidden, residual)
        return skinny_linear(normed, self.weight, bias, activation=activation), stream

    def onto(self, x: Tensor, stream: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if len(x) >= _MANY_ROWS and bias is None:
            return stream.addmm_(x, self.weight.t()), None
        added = fused_linear(x, self.weight, bias, residual=stream)
        return (skinny_linear(x, self.weight, bias), stream) if added is None else (added, None)


class SkinnyTable(PlainTable):
    """A padded table on a GPU, with a kernel of its own for looking up rows.

    It is multiplied with its padding: an odd number of rows would take several times longer.
    """

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = skinny_linear(x, self.table)[:, : self.num_rows]
        return out if bias is None else out + bias

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return embedding_rows(Rows(self.table, ids))

    def sums_of_rows(self, ids: Tensor, other: TableForm, other_ids: Tensor, dtype: torch.dtype) -> Tensor:
        if isinstance(other, SkinnyTable):
            return embedding_rows(Rows(self.table, ids), Rows(other.table, other_ids))
        return super().sums_of_rows(ids, other, other_ids, dtype)
