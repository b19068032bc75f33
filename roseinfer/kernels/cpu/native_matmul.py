"""Compiled matrix products on a CPU, with plain or quantized weights (cpp/products.h)."""

import ctypes
from enum import IntEnum

import torch
from torch import Tensor

from roseinfer.kernels.cpu.native_library import INTEGER, POINTER, call

_LABELS = ("linear", "int8_linear", "int4_linear")
"""Operator names in traces, by `WeightKind`."""


class WeightKind(IntEnum):
    """Storage of a weight's elements: plain, 8 bits with a scale per row, or 4 bits with a scale per group."""

    PLAIN = 0
    INT8 = 1
    INT4 = 2


class WeightStruct(ctypes.Structure):
    """Address and layout of one linear layer's weight: `Weight` in cpp/products.h, which explains the fields."""

    _fields_ = (
        ("values", POINTER),
        ("scales", POINTER),
        ("bias", POINTER),
        ("kind", INTEGER),
        ("outputs", INTEGER),
        ("size", INTEGER),
        ("lanes", INTEGER),
    )


def linear(x: Tensor, weight: WeightStruct) -> Tensor:
    """Return x W^T + b: contiguous x [rows, size] -> [rows, outputs]."""
    out = x.new_empty((x.shape[0], weight.outputs))
    arguments = ctypes.byref(weight), x.data_ptr(), out.data_ptr(), x.shape[0]
    call("linear", x.dtype, *arguments, label=_LABELS[weight.kind])
    return out


def table_rows(ids: Tensor, weight: WeightStruct, dtype: torch.dtype) -> Tensor:
    """Look up rows of a plain or int8 weight [outputs, size]: ids [n], each below `outputs` -> [n, size]."""
    ids = ids.to(torch.int64).contiguous()
    out = ids.new_empty((len(ids), weight.size), dtype=dtype)
    call("table_rows", dtype, ctypes.byref(weight), ids.data_ptr(), out.data_ptr(), len(ids))
    return out
