"""Matrix products on a CPU with weights of 8 or 4 bits, by torch's own kernels.

Few rows of x are multiplied by the quantized weight directly: its bytes are read once and dequantized in registers.
For many rows the arithmetic takes longer than the reading, so the weight is dequantized to x's dtype once and
multiplied like any other.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.linear.quantized_weight import INT4_GROUP, QuantizedWeight
from roseinfer.kernels.linear.weight_form import TableForm, WeightForm

_ALIGNMENT = 32
"""Alignment of x in bytes that torch's 8-bit kernel needs."""
_BLOCK_ROWS = {"AVX512": 64, "AVX2": 32}
"""Rows of a weight that torch packs together in 4 bits, by instruction set. The first half is in the low bits."""


class _TorchQuantized(WeightForm):
    """Multiplies few rows by the quantized weight, in bfloat16, and many rows by a dequantized one, in x's dtype."""

    max_rows: int
    """Largest number of rows of x for which the quantized weight is faster than a dequantized one."""

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.shape[0] > self.max_rows:
            return self._many_rows(x, bias)
        # A conversion to the same dtype costs a call, too.
        is_bfloat16 = x.dtype == torch.bfloat16
        out = self._few_rows(x) if is_bfloat16 else self._few_rows(x.to(torch.bfloat16)).to(x.dtype)
        return out if bias is None else out.add_(bias)

    @abstractmethod
    def _few_rows(self, x: Tensor) -> Tensor:
        """Return x W^T for x in bfloat16, [rows, size] -> [rows, outputs]."""

    def _many_rows(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.values(x.dtype), bias)


@dataclass(frozen=True, eq=False)
class Int8Rows(_TorchQuantized, TableForm):
    """A weight of 8 bits per element, with one scale per row: value = code x scale."""

    codes: Tensor  # [outputs, size], int8
    scales: Tensor  # [outputs], bfloat16

    max_rows = 16

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """True if torch's kernel takes a weight of this shape, on this device."""
        return weight.device.type == "cpu" and weight.shape[1] % 16 == 0

    @classmethod
    def pack(cls, quantized: QuantizedWeight) -> Self:
        """Return the weight form of 8-bit rows, which shares their memory."""
        return cls(quantized.codes, quantized.scales.flatten())

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def values(self, dtype: torch.dtype) -> Tensor:
        return self.codes.to(dtype) * self.scales.to(dtype)[:, None]

    @property
    def row_bytes(self) -> int:
        return self.codes.shape[1] * self.codes.itemsize + self.scales.itemsize

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.codes[ids].to(dtype) * self.scales[ids].to(dtype)[:, None]

    def _few_rows(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        if x.data_ptr() % _ALIGNMENT:
            x = x.clone()
        out: Tensor = torch.ops.aten._weight_int8pack_mm.default(x, self.codes, self.scales)
        return out

    def _many_rows(self, x: Tensor, bias: Tensor | None) -> Tensor:
        out = F.linear(x, self.codes.to(x.dtype)).mul_(self.scales)  # 8-bit codes are exact in bfloat16
        return out if bias is None else out.add_(bias)


@dataclass(frozen=True, eq=False)
class Int4Groups(_TorchQuantized):
    """A weight of 4 bits per element, with a scale and an offset per group of 32 elements of a row."""

    packed: Tensor  # [outputs, size / 2], uint8, in the order of torch's kernel
    scales_and_offsets: Tensor  # [size / 32, outputs, 2], bfloat16

    max_rows = 64

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """True if torch's kernel takes a weight of this shape, on this device and processor."""
        block = _BLOCK_ROWS.get(torch.backends.cpu.get_cpu_capability())
        return (
            block is not None
            and weight.device.type == "cpu"
            and weight.shape[0] % block == 0
            and weight.shape[1] % INT4_GROUP == 0
        )

    @classmethod
    def pack(cls, quantized: QuantizedWeight) -> Self:
        """Pack 4-bit groups in the order of torch's kernel; scales and offsets are rounded to bfloat16."""
        assert quantized.offsets is not None, "4-bit groups have offsets"
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(quantized.codes.to(torch.int32), 1)
        pairs = torch.stack((quantized.scales, quantized.offsets), dim=-1)
        return cls(packed, pairs.transpose(0, 1).to(torch.bfloat16).contiguous())

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales_and_offsets.nbytes

    def values(self, dtype: torch.dtype) -> Tensor:
        return self._transposed(dtype).t()

    @property
    def half(self) -> int:
        """Half the rows that are packed together. The first half's codes are the low bits, the others the high bits."""
        return _BLOCK_ROWS[torch.backends.cpu.get_cpu_capability()] // 2

    def _few_rows(self, x: Tensor) -> Tensor:
        scales = self.scales_and_offsets
        mm = torch.ops.aten._weight_int4pack_mm_for_cpu.default
        out: Tensor = mm(x.contiguous(), self.packed, INT4_GROUP, scales)
        return out

    def _transposed(self, dtype: torch.dtype) -> Tensor:
        """Return the values transposed, [size, outputs]: the order in which they are packed."""
        outputs, size = self.packed.shape[0], self.packed.shape[1] * 2
        half = self.half
        pairs = self.packed.view(-1, size, half).transpose(0, 1)
        codes = torch.empty(size, pairs.shape[1], 2, half, dtype=torch.uint8)
        torch.bitwise_and(pairs, 15, out=codes[:, :, 0])
        torch.bitwise_right_shift(pairs, 4, out=codes[:, :, 1])
        values = codes.view(torch.int8).sub_(8).to(dtype).view(-1, INT4_GROUP, outputs)
        scales, offsets = self.scales_and_offsets.to(dtype).unsqueeze(1).unbind(-1)
        return torch.addcmul(offsets.contiguous(), values, scales.contiguous()).view(size, outputs)
