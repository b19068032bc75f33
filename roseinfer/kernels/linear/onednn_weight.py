"""Matrix products on a CPU with weights in the order in which oneDNN's kernels read them.

A weight that was reordered beforehand is read once, from front to back. `F.linear` takes twice as long for one row, and
for many rows it reorders the weight in every call (benchmarks/cpu-notes.md).
"""

import functools
from typing import Self

import torch
from torch import Tensor

from roseinfer.kernels.linear.weight_form import WeightForm

_MIN_ELEMENTS = 1 << 16
"""Minimum elements of a reordered weight. For smaller ones, calling oneDNN takes as long as the product."""


class OneDnnWeight(WeightForm):
    """A weight reordered for oneDNN's kernels."""

    def __init__(self, packed: Tensor) -> None:
        self._packed = packed

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """True if oneDNN has kernels for the reordered weight on this processor, and the weight is large enough."""
        return weight.device.type == "cpu" and weight.numel() >= _MIN_ELEMENTS and weight.dtype in _packed_dtypes()

    @classmethod
    def pack(cls, weight: Tensor) -> Self:
        """Reorder a copy of a weight [outputs, size] that `fits` accepts."""
        return cls(torch.ops.mkldnn._reorder_linear_weight.default(weight, None))

    @property
    def nbytes(self) -> int:
        return self._packed.numel() * self._packed.itemsize

    def values(self, dtype: torch.dtype) -> Tensor:
        return self._packed.to_dense().to(dtype)

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._packed, bias, "none", [], "")
        return out


@functools.lru_cache(maxsize=1)
def _packed_dtypes() -> frozenset[torch.dtype]:
    """Return the dtypes that oneDNN multiplies on this processor without converting the weights in every call."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return frozenset()
    bfloat16 = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | bfloat16)
