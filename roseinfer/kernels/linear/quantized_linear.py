"""Matrix products on a CPU with weights of 8 or 4 bits, by torch's own kernels.

Few rows of x are multiplied with the packed weight as it is: its bytes are read once, and widened in registers. For
many rows, arithmetic decides: the weight is widened to x's dtype once, and multiplied as any other.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.linear.packed_weight import PackedTable, PackedWeight

GROUP = 32
"""Elements of a row that share a scale and an offset, in 4 bits."""
_ALIGNMENT = 32
"""Bytes; torch's 8-bit kernel loads x in such pieces."""
_BLOCK_ROWS = {"AVX512": 64, "AVX2": 32}
"""Rows of a weight that torch packs together in 4 bits, by instruction set: the first half goes into the low bits."""


class _QuantizedWeight(PackedWeight):
    """Multiplies few rows as it is, and many in x's dtype. The kernels for few rows read x rounded to bfloat16."""

    max_rows: int
    """Of x, up to which the packed weight is faster than a widened one."""

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.shape[0] > self.max_rows:
            return self._many_rows(x, bias)
        # A conversion that finds nothing to do takes time, too.
        narrow = x.dtype == torch.bfloat16
        out = self._few_rows(x) if narrow else self._few_rows(x.to(torch.bfloat16)).to(x.dtype)
        return out if bias is None else out.add_(bias)

    @abstractmethod
    def _few_rows(self, x: Tensor) -> Tensor:
        """In bfloat16, without a bias."""

    def _many_rows(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.values(x.dtype), bias)


@dataclass(frozen=True)
class Int8Rows(_QuantizedWeight, PackedTable):
    """8 bits an element and a scale a row: value = code x scale."""

    codes: Tensor  # [outputs, size], int8
    scales: Tensor  # [outputs], bfloat16

    max_rows = 16

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether torch's kernel takes a weight of this shape."""
        return weight.device.type == "cpu" and weight.shape[1] % 16 == 0

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """The nearest codes to a weight [outputs, size]; a row's largest magnitude becomes 127."""
        wide = weight.float()
        scales = (wide.abs().amax(1).clamp_(min=1e-30) / 127).to(torch.bfloat16)
        codes = (wide / scales.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        return cls(codes, scales)

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
        out = F.linear(x, self.codes.to(x.dtype)).mul_(self.scales)  # codes are exact in bfloat16
        return out if bias is None else out.add_(bias)


class Groups(NamedTuple):
    """Values in 4 bits, before they are packed: (code - 8) x scale + offset, with code in 0..15."""

    codes: Tensor  # [outputs, size], uint8
    scales: Tensor  # [outputs, size / 32], float32
    offsets: Tensor  # [outputs, size / 32], float32

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """The nearest codes to a weight [outputs, size]; a group's ends become 0 and 15."""
        groups = weight.float().view(len(weight), -1, GROUP)
        low, high = groups.aminmax(dim=-1)
        scales = (high - low) / 15
        codes = (groups - low[..., None]).div_(scales.clamp(min=1e-30)[..., None]).round_().clamp_(0, 15)
        return cls(codes.to(torch.uint8).flatten(1), scales, low + 8 * scales)

    def values(self, dtype: torch.dtype) -> Tensor:
        """[outputs, size]."""
        centered = self.codes.float().sub_(8).view(*self.scales.shape, GROUP)
        return torch.addcmul(self.offsets[..., None], centered, self.scales[..., None]).flatten(1).to(dtype)


@dataclass(frozen=True)
class Int4Groups(_QuantizedWeight):
    """4 bits an element, and a scale and an offset for each 32 of a row."""

    packed: Tensor  # [outputs, size / 2], uint8, in the order of torch's kernel
    scales_and_offsets: Tensor  # [size / 32, outputs, 2], bfloat16

    max_rows = 64

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether torch's kernel takes a weight of this shape."""
        block = _BLOCK_ROWS.get(torch.backends.cpu.get_cpu_capability())
        return (
            block is not None
            and weight.device.type == "cpu"
            and weight.shape[0] % block == 0
            and weight.shape[1] % GROUP == 0
        )

    @classmethod
    def pack(cls, groups: Groups) -> Self:
        """In the order of torch's kernel; scales and offsets are rounded to bfloat16."""
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(groups.codes.to(torch.int32), 1)
        pairs = torch.stack((groups.scales, groups.offsets), dim=-1)
        return cls(packed, pairs.transpose(0, 1).to(torch.bfloat16).contiguous())

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales_and_offsets.nbytes

    def values(self, dtype: torch.dtype) -> Tensor:
        return self._transposed(dtype).t()

    @property
    def half(self) -> int:
        """Rows of a weight whose codes are the low bits of a pack; as many again are the high bits."""
        return _BLOCK_ROWS[torch.backends.cpu.get_cpu_capability()] // 2

    def _few_rows(self, x: Tensor) -> Tensor:
        scales = self.scales_and_offsets
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu.default(x.contiguous(), self.packed, GROUP, scales)
        return out

    def _transposed(self, dtype: torch.dtype) -> Tensor:
        """The values as they lie in a pack, [size, outputs]."""
        outputs, size = self.packed.shape[0], self.packed.shape[1] * 2
        half = self.half
        pairs = self.packed.view(-1, size, half).transpose(0, 1)
        codes = torch.empty(size, pairs.shape[1], 2, half, dtype=torch.uint8)
        torch.bitwise_and(pairs, 15, out=codes[:, :, 0])
        torch.bitwise_right_shift(pairs, 4, out=codes[:, :, 1])
        values = codes.view(torch.int8).sub_(8).to(dtype).view(-1, GROUP, outputs)
        scales, offsets = self.scales_and_offsets.to(dtype).unsqueeze(1).unbind(-1)
        return torch.addcmul(offsets.contiguous(), values, scales.contiguous()).view(size, outputs)
