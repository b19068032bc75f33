"""Matrix products on a CPU by the compiled kernels, with weights of 16 or 32 bits, 8 bits or 4 bits.

A weight is stored in packs of outputs. Within a pack, elements 0 and 1 of all outputs come first, then elements 2 and 3
of all outputs, and so on (cpp/products.h). One row of x then reads the weight at the memory's speed. Many rows are
multiplied as fast as in oneDNN's own layout (benchmarks/cpu-notes.md).
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from roseinfer.kernels.cpu import native_kernels, native_library, native_matmul
from roseinfer.kernels.cpu.native_matmul import WeightKind, WeightStruct
from roseinfer.kernels.linear.quantized_weight import INT4_GROUP, QuantizedWeight
from roseinfer.kernels.linear.weight_form import TableForm

_LANES = (64, 32, 16)
"""Possible numbers of outputs per pack, the fastest first."""
_PAIR_DTYPES = {1: torch.int16, 2: torch.int32}
"""Dtype that holds two elements as one, by bytes per element."""


@dataclass(frozen=True, eq=False)
class NativeWeight(TableForm):
    """A weight [outputs, size] in packs of `lanes` outputs. Zeros pad the last pack."""

    data: Tensor
    """The packs. The layout depends on the element type:

    - float32: [packs, size, lanes]
    - bfloat16 and 8-bit codes: [packs, size / 2, lanes, 2]
    - 4 bits, as bytes: [packs, size / 32, 20 x lanes]: per group of 32, codes [32, lanes / 2] with two outputs per
      byte, then bfloat16 scales and offsets [lanes, 2]
    """
    scales: Tensor | None
    """Scales of 8-bit codes: [outputs], bfloat16."""
    outputs: int
    size: int
    lanes: int
    kind: WeightKind
    _structs: dict[int, WeightStruct] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """True if the compiled kernels are loaded, and take a plain weight of this shape and dtype."""
        return native_kernels.runs_native(weight) and weight.shape[1] % native_kernels.LANES == 0

    @staticmethod
    def fits_groups(unit: int) -> bool:
        """True if the compiled kernels are loaded, and take 4-bit weights whose outputs come in multiples of `unit`."""
        return native_library.is_loaded() and unit % 32 == 0

    @classmethod
    def pack(cls, weight: Tensor, unit: int) -> Self:
        """Pack a copy of a plain weight. `unit` divides the number of outputs of each fused projection."""
        lanes, (outputs, size) = _lanes(unit), weight.shape
        return cls(_in_packs(weight, lanes), None, outputs, size, lanes, WeightKind.PLAIN)

    @classmethod
    def pack_quantized(cls, quantized: QuantizedWeight, unit: int) -> Self:
        """Pack 8-bit rows, or 4-bit groups, whose scales and offsets are rounded to bfloat16."""
        lanes, (outputs, size) = _lanes(unit), quantized.codes.shape
        if quantized.code_type == "int8":
            scales = quantized.scales.flatten()
            return cls(_in_packs(quantized.codes, lanes), scales, outputs, size, lanes, WeightKind.INT8)
        return cls(_int4_packs(quantized, lanes), None, outputs, size, lanes, WeightKind.INT4)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def row_bytes(self) -> int:
        return self.size * self.data.itemsize + (0 if self.scales is None else self.scales.itemsize)

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        assert x.shape[1:] == (self.size,), "the kernels read unchecked addresses"
        plain = self.kind is WeightKind.PLAIN
        if native_kernels.runs_native(x, self.data if plain else None, bias):
            return native_matmul.linear(x.contiguous(), self.struct(bias))
        wide = x.to(self.data.dtype if plain else torch.float32).contiguous()
        out = native_matmul.linear(wide, self.struct(None))
        return (out if bias is None else out + bias).to(x.dtype)

    def struct(self, bias: Tensor | None) -> WeightStruct:
        """Return the addresses that the kernels read. They are valid as long as this weight and the bias live."""
        address = 0 if bias is None else bias.data_ptr()
        if address not in self._structs:
            scales = None if self.scales is None else self.scales.data_ptr()
            self._structs[address] = WeightStruct(
                self.data.data_ptr(), scales, address or None, self.kind, self.outputs, self.size, self.lanes
            )
        return self._structs[address]

    def values(self, dtype: torch.dtype) -> Tensor:
        if self.kind is WeightKind.INT4:
            return self._int4_values(dtype)
        if self.data.dim() == 3:
            plain = self.data.transpose(1, 2)
        else:
            plain = self.data.transpose(1, 2).reshape(-1, self.lanes, self.size)
        values = plain.reshape(-1, self.size)[: self.outputs].to(dtype)
        return values if self.scales is None else values * self.scales.to(dtype)[:, None]

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        assert self.kind is not WeightKind.INT4, "tables have 8 bits at least"
        wide = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        own = wide if self.kind is WeightKind.INT8 else self.data.dtype
        return native_matmul.table_rows(ids, self.struct(None), own).to(dtype)

    def _int4_values(self, dtype: torch.dtype) -> Tensor:
        codes, pairs = self.data.tensor_split((INT4_GROUP // 2 * self.lanes,), dim=2)
        # [packs, lanes / 2, size]
        halves = codes.reshape(*codes.shape[:2], INT4_GROUP, -1).permute(0, 3, 1, 2).flatten(2)
        whole = torch.cat((halves & 15, halves >> 4), dim=1).view(-1, self.size)
        pairs = pairs.contiguous().view(torch.bfloat16).view(*codes.shape[:2], self.lanes, 2).transpose(1, 2)
        scales, offsets = pairs.float().flatten(0, 1).unbind(-1)
        return QuantizedWeight("uint4", whole, scales, offsets).values(dtype)


def _lanes(unit: int) -> int:
    """Return the outputs per pack: the largest choice that divides `unit`. If none does, zeros pad the last pack."""
    return next((lanes for lanes in _LANES if unit % lanes == 0), _LANES[0] if unit > 16 * _LANES[0] else _LANES[-1])


def _in_packs(plain: Tensor, lanes: int) -> Tensor:
    """Return a plain matrix [outputs, size] in packs, as `NativeWeight.data` describes them."""
    outputs, size = plain.shape
    if outputs % lanes:
        plain = torch.cat((plain, plain.new_zeros(-outputs % lanes, size)))
    if plain.itemsize not in _PAIR_DTYPES:
        return plain.view(-1, lanes, size).transpose(1, 2).contiguous()
    pairs = plain.contiguous().view(_PAIR_DTYPES[plain.itemsize]).view(-1, lanes, size // 2)
    return pairs.transpose(1, 2).contiguous().view(plain.dtype).view(-1, size // 2, lanes, 2)


def _int4_packs(quantized: QuantizedWeight, lanes: int) -> Tensor:
    """Return 4-bit codes, scales and offsets in packs, as `NativeWeight.data` describes them."""
    assert quantized.offsets is not None, "4-bit groups have offsets"
    outputs, size = quantized.codes.shape
    packs, count = outputs // lanes, size // INT4_GROUP
    halves = quantized.codes.view(packs, 2, lanes // 2, count, INT4_GROUP)
    codes = (halves[:, 0] | halves[:, 1] << 4).permute(0, 2, 3, 1)  # [packs, groups, 32, lanes / 2]
    pairs = torch.stack((quantized.scales, quantized.offsets), dim=-1).to(torch.bfloat16)
    pairs = pairs.view(packs, lanes, count, 2).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat((codes.flatten(2), pairs.flatten(2)), dim=2)
