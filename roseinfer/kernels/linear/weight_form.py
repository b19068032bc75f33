"""Weight forms: ways to store a linear layer's matrix, each with the kernels that multiply by it.

A layer starts with a plain form, which a loader fills. `form_choice` then picks one form per layer, once, by device,
dtype and quantization.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
from roseinfer.kernels.norms import Norm


class NormBefore(Protocol):
    """A norm that runs before a linear layer, and may be fused with it."""

    @property
    def description(self) -> Norm:
        """The norm's parameters, for kernels that compute the norm themselves."""
        ...

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return norm(x + residual) and x + residual, [rows, size] each. If residual is None, the sum is x."""
        ...


class WeightForm(ABC):
    """A matrix W [outputs, size] in the form that its kernels read."""

    @abstractmethod
    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b: x [rows, size] -> [rows, outputs], in x's dtype."""

    @abstractmethod
    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the plain matrix, [outputs, size]: the weight itself if it is stored that way, else a copy."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that one matrix product reads, scales included."""

    def tail(self, _outputs: int) -> "WeightForm | None":
        """Return the last rows of the matrix in the same memory; None if the form has no such view."""
        return None

    def linear(self, x: Tensor, bias: Tensor | None = None, activation: Activation | None = None) -> Tensor:
        """Return activation(x W^T + b). With a gated activation the result has half as many columns."""
        out = self.matmul(x, bias)
        return out if activation is None else getattr(activations, activation)(out)

    def after_norm(
        self,
        norm: NormBefore,
        hidden: Tensor,
        residual: Tensor | None,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return activation(norm(stream) W^T + b) and the stream, which is hidden + residual.

        If residual is None, hidden already is the stream.
        """
        normed, stream = norm.after(hidden, residual)
        return self.linear(normed, bias, activation), stream

    def onto(self, x: Tensor, stream: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return (x W^T + b, stream), for the next norm to add; or (their sum, None) if one kernel computes the sum.

        The sum may be computed in the stream's memory.
        """
        return self.linear(x, bias), stream


class TableForm(WeightForm):
    """A weight form whose rows can also be looked up, for an embedding that is the output head as well."""

    @abstractmethod
    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the values of some rows: ids [n] -> [n, size]."""

    def sums_of_rows(self, ids: Tensor, other: "TableForm", other_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the values of some rows plus those of rows of another table, [n, size]."""
        return self.rows(ids, dtype) + other.rows(other_ids, dtype)

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes that looking up one row reads."""


def linear_reference(x: Tensor, weight: WeightForm, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b from the plain matrix, computed in float32 and rounded once."""
    wide = torch.nn.functional.linear(x.float(), weight.values(torch.float32), None if bias is None else bias.float())
    return wide.to(x.dtype)
