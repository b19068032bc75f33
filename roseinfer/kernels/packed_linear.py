"""Matrix products on a CPU with weights in the order in which oneDNN's kernels walk them.

Laid out beforehand, a weight is read once, front to back. `F.linear` takes twice as long for one row, and lays the
weight out anew in every call for many (benchmarks/cpu-notes.md).
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_ELEMENTS = 1 << 16
"""Of a weight; a call into oneDNN costs as much as a smaller product."""


def packable(weight: Tensor) -> bool:
    """Whether this processor has kernels for the packed form of a weight [outputs, size], and it is worth it."""
    return weight.device.type == "cpu" and weight.numel() >= _MIN_ELEMENTS and weight.dtype in _packed_dtypes()


def pack(weight: Tensor) -> Tensor:
    """A packable weight in oneDNN's order: same shape and dtype, values only through `unpacked`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, None)
    return packed


def unpacked(weight: Tensor) -> Tensor:
    """The plain matrix [outputs, size], copied out of a packed weight; any other weight as it is."""
    return weight.to_dense() if weight.is_mkldnn else weight


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b for a packed weight: x [rows, size] -> [rows, outputs]."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


def packed_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same from the plain matrix."""
    return F.linear(x, unpacked(weight), bias)


@functools.lru_cache(maxsize=1)
def _packed_dtypes() -> frozenset[torch.dtype]:
    """What oneDNN multiplies here without converting the weights in every call."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return frozenset()
    bfloat16 = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | bfloat16)
