"""The choice of a weight form per layer: by device, dtype, quantization, and the kernels available.

Layers make the choice once, when their weights are loaded. A new form needs a line here, and nothing in the models.
"""

from typing import Literal

import torch
from torch import Tensor

from roseinfer.kernels.cpu import native_library
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.linear.onednn_weight import OneDnnWeight
from roseinfer.kernels.linear.plain_weight import PlainTable, PlainWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.skinny_weight import SkinnyTable, SkinnyWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups, Int8Rows
from roseinfer.kernels.linear.weight_form import TableForm, WeightForm

Packing = Literal["none", "int8", "int4"]
"""Quantization of the matrices: none, 8 bits with a scale per row, or 4 bits in groups of 32."""


def plain_form(weight: Tensor) -> PlainWeight:
    """Return a weight form that shares the memory of a matrix [outputs, size], so that a loader may still fill it."""
    return SkinnyWeight(weight) if weight.device.type == "cuda" else PlainWeight(weight)


def choose_form(weight: Tensor, packing: Packing, unit: int) -> WeightForm:
    """Return the fastest form of a loaded matrix [outputs, size] with the given quantization.

    `unit` divides the number of outputs of each projection fused in the matrix. A matrix that no 4-bit kernel takes
    gets 8 bits; a matrix that no 8-bit kernel takes is not quantized.
    """
    if packing == "int4" and Int4Groups.fits(weight):
        return choose_quantized_form(QuantizedWeight.int4_groups(weight), unit)
    if packing != "none" and Int8Rows.fits(weight):
        rows = QuantizedWeight.int8_rows(weight)
        return NativeWeight.pack_quantized(rows, unit) if NativeWeight.fits(weight) else Int8Rows.pack(rows)
    if NativeWeight.fits(weight):
        return NativeWeight.pack(weight, unit)
    return OneDnnWeight.pack(weight) if OneDnnWeight.fits(weight) else plain_form(weight)


def choose_quantized_form(quantized: QuantizedWeight, unit: int) -> WeightForm:
    """Return the fastest form of a matrix that is already quantized to 4 bits, with the same codes."""
    fits = NativeWeight.fits_groups(unit)
    return NativeWeight.pack_quantized(quantized, unit) if fits else Int4Groups.pack(quantized)


def plain_table(table: Tensor, num_rows: int) -> TableForm:
    """Return a weight form that shares the memory of a table [rows, size] with `num_rows` rows in use."""
    return (SkinnyTable if table.device.type == "cuda" else PlainTable)(table, num_rows)


def choose_table_form(table: Tensor, num_rows: int, packing: Packing) -> WeightForm:
    """Return the fastest form of a loaded table that is the output head as well.

    With "int4", the table is quantized to 8 bits. The form is a TableForm unless rows cannot be looked up in it.
    """
    form = choose_form(table[:num_rows], "none" if packing == "none" else "int8", num_rows)
    return plain_table(table, num_rows) if isinstance(form, PlainWeight) else form


def prefers_mirrored_norm(weight: Tensor) -> bool:
    """True if `add_rms_norm_mirrored` is the fastest way to normalize few rows with this weight [size]."""
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not native_library.is_loaded()
