"""A quantized weight, independent of the kernels. Each weight form, on a CPU or a GPU, packs its own layout from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

CodeType = Literal["int8", "uint4"]
"""Element type of the codes: signed 8-bit integers, or unsigned 4-bit integers around a zero point of 8."""

ZERO_POINTS: dict[CodeType, int] = {"int8": 0, "uint4": 8}
"""Code whose value is the group's offset, by code type."""

INT4_GROUP = 32
"""Elements of a row that share a scale and an offset, for 4-bit weights."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A quantized matrix in plain order, or stacked ones: value = (code - zero point) x scale + offset.

    A row's elements share scales and offsets in groups of size / groups elements.
    """

    code_type: CodeType
    codes: Tensor
    """Codes [..., outputs, size], one per byte: int8, or uint8 for "uint4"."""
    scales: Tensor
    """Scale of each group, [..., outputs, groups]."""
    offsets: Tensor | None
    """Offset of each group, [..., outputs, groups]; None: all zero."""

    @classmethod
    def int8_rows(cls, weight: Tensor) -> Self:
        """Quantize a matrix [outputs, size] to 8 bits with one scale per row, bfloat16.

        Codes are the nearest ones; a row's largest magnitude becomes 127.
        """
        wide = weight.float()
        scales = (wide.abs().amax(1, keepdim=True).clamp_(min=1e-30) / 127).to(torch.bfloat16)
        codes = (wide / scales.float()).round_().clamp_(-127, 127).to(torch.int8)
        return cls("int8", codes, scales, None)

    @classmethod
    def int4_groups(cls, weight: Tensor) -> Self:
        """Quantize a matrix [outputs, size] to 4 bits with a float32 scale and offset per group of 32 elements.

        Codes are the nearest ones; a group's minimum becomes 0 and its maximum 15.
        """
        groups = weight.float().view(len(weight), -1, INT4_GROUP)
        low, high = groups.aminmax(dim=-1)
        scales = (high - low) / 15
        codes = (groups - low[..., None]).div_(scales.clamp(min=1e-30)[..., None]).round_().clamp_(0, 15)
        return cls("uint4", codes.to(torch.uint8).flatten(1), scales, low + 8 * scales)

    @classmethod
    def concatenated(cls, parts: list[Self]) -> Self:
        """Join the rows of matrices with the same code type, of which either all or none have offsets."""
        offsets = [part.offsets for part in parts if part.offsets is not None]
        return cls(
            parts[0].code_type,
            torch.cat([part.codes for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(offsets) if offsets else None,
        )

    def split(self, parts: int) -> list[Self]:
        """Return equal parts of the rows, in order."""
        offsets = (None,) * parts if self.offsets is None else self.offsets.chunk(parts)
        planes = zip(self.codes.chunk(parts), self.scales.chunk(parts), offsets, strict=True)
        return [type(self)(self.code_type, *plane) for plane in planes]

    def mapped(self, transform: Callable[[Tensor], Tensor]) -> Self:
        """Apply a choice or permutation of rows, or a transposition, to codes, scales and offsets alike."""
        offsets = None if self.offsets is None else transform(self.offsets)
        return type(self)(self.code_type, transform(self.codes), transform(self.scales), offsets)

    @property
    def group_size(self) -> int:
        """Elements of a row that share a scale and an offset."""
        return self.codes.shape[-1] // self.scales.shape[-1]

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantized matrix [..., outputs, size], computed in float32 and rounded once."""
        centered = self.codes.float().sub_(ZERO_POINTS[self.code_type]).view(*self.scales.shape, self.group_size)
        scales = self.scales.float()[..., None]
        if self.offsets is None:
            return (centered * scales).flatten(-2).to(dtype)
        return torch.addcmul(self.offsets.float()[..., None], centered, scales).flatten(-2).to(dtype)
