"""Which form a loaded weight is kept in on a CPU: by how many bits are wanted, and by the kernels that there are."""

from typing import Literal

from torch import Tensor

from roseinfer.kernels.linear.native_linear import NativeWeight
from roseinfer.kernels.linear.packed_linear import OneDnnWeight
from roseinfer.kernels.linear.packed_weight import PackedWeight
from roseinfer.kernels.linear.quantized_linear import Groups, Int4Groups, Int8Rows

Packing = Literal["none", "int8", "int4"]
"""How the weights of matrix products are kept: as they are, in 8 bits by rows, or in 4 bits by groups of 32."""


def pack(weight: Tensor, packing: Packing, unit: int) -> PackedWeight | None:
    """A weight [outputs, size], whose parts are multiples of `unit` outputs, in the wanted form; None: as it is.

    What does not fit into 4 bits gets 8, what does not fit into these stays as it is.
    """
    if packing == "int4" and Int4Groups.fits(weight):
        return pack_groups(Groups.quantize(weight), unit)
    if packing != "none" and Int8Rows.fits(weight):
        rows = Int8Rows.quantize(weight)
        return NativeWeight.pack_rows(rows, unit) if NativeWeight.fits(weight) else rows
    if NativeWeight.fits(weight):
        return NativeWeight.pack(weight, unit)
    return OneDnnWeight.pack(weight) if OneDnnWeight.fits(weight) else None


def pack_groups(groups: Groups, unit: int) -> PackedWeight:
    """A weight that comes in 4 bits, as it is."""
    return NativeWeight.pack_groups(groups, unit) if NativeWeight.fits_groups(unit) else Int4Groups.pack(groups)
