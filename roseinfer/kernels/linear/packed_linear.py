"""Matrix products on a CPU with weights in the order in which oneDNN's kernels walk them.

Laid out beforehand, a weight is read once, front to back. `F.linear` takes twice as long for one row, and lays the
weight out anew in every call for many (benchmarks/cpu-notes.md).
"""

import functools
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.linear.packed_weight import PackedWeight

_MIN_ELEMENTS = 1 << 16
"""Of a weight; a call into oneDNN costs as much as a smaller product."""


class OneDnnWeight(PackedWeight):
    """A weight in oneDNN's order."""

    def __init__(self, packed: Tensor) -> None:
        self._packed = packed

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether this processor has kernels for the packed form of a weight, and it is worth it."""
        return weight.device.type == "cpu" and weight.numel() >= _MIN_ELEMENTS and weight.dtype in _packed_dtypes()

    @classmethod
    def pack(cls, weight: Tensor) -> Self:
        """A copy of a weight [outputs, size] that fits."""
        return cls(torch.ops.mkldnn._reorder_linear_weight.default(weight, None))

    @property
    def nbytes(self) -> int:
        return self._packed.numel() * self._packed.itemsize

    def values(self, dtype: torch.dtype) -> Tensor:
        return self._packed.to_dense().to(dtype)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._packed, bias, "none", [], "")
        return out


def packed_linear_reference(x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """The same from the plain matrix, in float32 and rounded once."""
    wide = F.linear(x.float(), weight.values(torch.float32), None if bias is None else bias.float())
    return wide.to(x.dtype)


@functools.lru_cache(maxsize=1)
def _packed_dtypes() -> frozenset[torch.dtype]:
    """What oneDNN multiplies here without converting the weights in every call."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return frozenset()
    bfloat16 = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | bfloat16)
