"""Matrix products on a CPU by the compiled kernels, with weights plain, in 8 bits or in 4.

A weight lies in packs of outputs, in each of which the elements follow each other in pairs (cpp/products.h): one row of
x reads it at memory's speed, and many rows compute as fast as with oneDNN's own order (benchmarks/cpu-notes.md).
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from roseinfer.kernels.cpu import native_kernels, native_library, native_matmul
from roseinfer.kernels.cpu.native_matmul import WeightKind, WeightStruct
from roseinfer.kernels.linear.packed_weight import PackedTable
from roseinfer.kernels.linear.quantized_linear import GROUP, Groups, Int8Rows

_LANES = (64, 32, 16)
"""Outputs of a pack, the best first."""
_PAIR_DTYPES = {1: torch.int16, 2: torch.int32}
"""Two elements as one, by bytes of an element."""


@dataclass(frozen=True, eq=False)
class NativeWeight(PackedTable):
    """A weight [outputs, size] in packs; the last one may be filled up with zeros."""

    data: Tensor
    """Plain float32: [packs, size, lanes]; bfloat16, or codes of 8 bits: [packs, size / 2, lanes, 2]; 4 bits, as bytes:
    [packs, size / 32, 20 x lanes], where codes [32, lanes / 2] of two outputs each come before bfloat16 scales and
    offsets [lanes, 2]."""
    scales: Tensor | None
    """Of 8 bits: [outputs], bfloat16."""
    outputs: int
    size: int
    lanes: int
    kind: WeightKind
    _described: dict[int, WeightStruct] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether the kernels take a plain weight of this shape and dtype, and are there."""
        return native_kernels.runs_native(weight) and weight.shape[1] % native_kernels.LANES == 0

    @staticmethod
    def fits_groups(unit: int) -> bool:
        """Whether the kernels take a weight of 4 bits whose parts are multiples of `unit` outputs, and are there."""
        return native_library.is_loaded() and unit % 32 == 0

    @classmethod
    def pack(cls, weight: Tensor, unit: int) -> Self:
        """A copy of a plain weight; its parts are multiples of `unit` outputs."""
        lanes, (outputs, size) = _lanes(unit), weight.shape
        return cls(_in_packs(weight, lanes), None, outputs, size, lanes, WeightKind.PLAIN)

    @classmethod
    def pack_rows(cls, rows: Int8Rows, unit: int) -> Self:
        """A copy of a weight in 8 bits."""
        lanes, (outputs, size) = _lanes(unit), rows.codes.shape
        return cls(_in_packs(rows.codes, lanes), rows.scales, outputs, size, lanes, WeightKind.INT8)

    @classmethod
    def pack_groups(cls, groups: Groups, unit: int) -> Self:
        """A weight of 4 bits; scales and offsets are rounded to bfloat16."""
        lanes, (outputs, size) = _lanes(unit), groups.codes.shape
        packs, count = outputs // lanes, size // GROUP
        halves = groups.codes.view(packs, 2, lanes // 2, count, GROUP)
        codes = (halves[:, 0] | halves[:, 1] << 4).permute(0, 2, 3, 1)  # [packs, groups, 32, lanes / 2]
        pairs = torch.stack((groups.scales, groups.offsets), dim=-1).to(torch.bfloat16)
        pairs = pairs.view(packs, lanes, count, 2).transpose(1, 2).contiguous().view(torch.uint8)
        data = torch.cat((codes.flatten(2), pairs.flatten(2)), dim=2)
        return cls(data, None, outputs, size, lanes, WeightKind.INT4)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def row_bytes(self) -> int:
        return self.size * self.data.itemsize + (0 if self.scales is None else self.scales.itemsize)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        assert x.shape[1:] == (self.size,), "the kernels read what lies there"
        plain = self.kind is WeightKind.PLAIN
        if native_kernels.runs_native(x, self.data if plain else None, bias):
            return native_matmul.linear(x.contiguous(), self.describe(bias))
        wide = x.to(self.data.dtype if plain else torch.float32).contiguous()
        out = native_matmul.linear(wide, self.describe(None))
        return (out if bias is None else out + bias).to(x.dtype)

    def describe(self, bias: Tensor | None) -> WeightStruct:
        """What the kernels read. The addresses are good as long as the weight and the bias are."""
        address = 0 if bias is None else bias.data_ptr()
        if address not in self._described:
            scales = None if self.scales is None else self.scales.data_ptr()
            self._described[address] = WeightStruct(
                self.data.data_ptr(), scales, address or None, self.kind, self.outputs, self.size, self.lanes
            )
        return self._described[address]

    def values(self, dtype: torch.dtype) -> Tensor:
        if self.kind is WeightKind.INT4:
            codes, pairs = self.data.tensor_split((GROUP // 2 * self.lanes,), dim=2)
            # [packs, lanes / 2, size]
            halves = codes.reshape(*codes.shape[:2], GROUP, -1).permute(0, 3, 1, 2).flatten(2)
            whole = torch.cat((halves & 15, halves >> 4), dim=1).view(-1, self.size)
            pairs = pairs.contiguous().view(torch.bfloat16).view(*codes.shape[:2], self.lanes, 2).transpose(1, 2)
            scales, offsets = pairs.float().flatten(0, 1).unbind(-1)
            return Groups(whole, scales, offsets).values(dtype)
        if self.data.dim() == 3:
            plain = self.data.transpose(1, 2)
        else:
            plain = self.data.transpose(1, 2).reshape(-1, self.lanes, self.size)
        values = plain.reshape(-1, self.size)[: self.outputs].to(dtype)
        return values if self.scales is None else values * self.scales.to(dtype)[:, None]

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        assert self.kind is not WeightKind.INT4, "no table is kept in 4 bits"
        wide = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        own = wide if self.kind is WeightKind.INT8 else self.data.dtype
        return native_matmul.table_rows(ids, self.describe(None), own).to(dtype)


def _lanes(unit: int) -> int:
    """Of packs that `unit` outputs fill; many outputs have room for some zeros."""
    return next((lanes for lanes in _LANES if unit % lanes == 0), _LANES[0] if unit > 16 * _LANES[0] else _LANES[-1])


def _in_packs(plain: Tensor, lanes: int) -> Tensor:
    outputs, size = plain.shape
    if outputs % lanes:
        plain = torch.cat((plain, plain.new_zeros(-outputs % lanes, size)))
    if plain.itemsize not in _PAIR_DTYPES:
        return plain.view(-1, lanes, size).transpose(1, 2).contiguous()
    pairs = plain.contiguous().view(_PAIR_DTYPES[plain.itemsize]).view(-1, lanes, size // 2)
    return pairs.transpose(1, 2).contiguous().view(plain.dtype).view(-1, size // 2, lanes, 2)
