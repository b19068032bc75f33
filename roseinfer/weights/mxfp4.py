"""MXFP4 weights in safetensors files: 4-bit floating-point numbers in groups of 32 that share a power of two.

OCP Microscaling Formats, version 1.0. A matrix `X` is stored as `X_blocks` [..., rows, groups, 16], two elements per
byte, the first in the low bits, and `X_scales` [..., rows, groups], exponents plus 127.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.progress import ProgressCallback
from roseinfer.weights.safetensors_files import SafetensorsReader
from roseinfer.weights.stored_tensor import ALL_WHOLE, StoredParts, StoredTensor

_BLOCKS, _SCALES = "_blocks", "_scales"
_GROUP_BYTES = 16
_BIAS = 127
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of the codes 0 to 7; 8 to 15 are the same with the other sign."""


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values [..., groups * 32] of blocks [..., groups, 16] and scales [..., groups], both uint8."""
    table = torch.tensor([*_VALUES, *(-value for value in _VALUES)], dtype=torch.float32)
    codes = torch.arange(256)
    pairs = torch.stack((table[codes & 15], table[codes >> 4]), dim=-1)  # values of each byte
    values = pairs[blocks.int()].flatten(-2)  # [..., groups, 32]
    exponents = scales.to(torch.int32) - _BIAS
    return torch.ldexp(values, exponents[..., None]).flatten(-2).to(dtype)


class Mxfp4Reader(SafetensorsReader):
    """Reads safetensors files in which some matrices are MXFP4: `X_blocks` are their values, and `X_scales` nothing."""

    def table(self) -> dict[str, StoredTensor]:
        """Return the shape and kind of every tensor; of an MXFP4 matrix, those of its values."""
        stored = super().table()
        found = {}
        for name, tensor in stored.items():
            if not self._is_blocks(name, stored):
                if not self._is_scales(name, stored):
                    found[name] = tensor
                continue
            groups, scales = tensor.shape[:-1], stored[_scales_of(name)].shape
            if tensor.shape[-1] != _GROUP_BYTES or scales != groups:
                raise ModelError(f"{name} has shape {tensor.shape}, but its scales have {scales}: download it again")
            found[name] = StoredTensor((*groups[:-1], groups[-1] * 2 * _GROUP_BYTES), is_float=True)
        return found

    def tensors(
        self, dtype: torch.dtype, on_progress: ProgressCallback | None = None, parts: StoredParts = ALL_WHOLE
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) as `SafetensorsReader.tensors` does.

        MXFP4 matrices are dequantized to `dtype`, and whole.
        """
        stored = super().table()
        waiting: dict[str, Tensor] = {}
        for name, tensor in super().tensors(dtype, on_progress, parts):
            if self._is_blocks(name, stored):
                partner = _scales_of(name)
            elif self._is_scales(name, stored):
                partner = name.removesuffix(_SCALES) + _BLOCKS
            else:
                yield name, tensor
                continue
            if partner not in waiting:
                waiting[name] = tensor
                continue
            other = waiting.pop(partner)
            blocks, scales = (tensor, other) if name.endswith(_BLOCKS) else (other, tensor)
            yield name.removesuffix(_SCALES).removesuffix(_BLOCKS) + _BLOCKS, dequantize_mxfp4(blocks, scales, dtype)

    @staticmethod
    def _is_blocks(name: str, stored: dict[str, StoredTensor]) -> bool:
        return name.endswith(_BLOCKS) and _scales_of(name) in stored

    @staticmethod
    def _is_scales(name: str, stored: dict[str, StoredTensor]) -> bool:
        return name.endswith(_SCALES) and name.removesuffix(_SCALES) + _BLOCKS in stored


def _scales_of(blocks: str) -> str:
    return blocks.removesuffix(_BLOCKS) + _SCALES
