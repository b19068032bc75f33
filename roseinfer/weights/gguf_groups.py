"""Unpacking GGUF's 4-bit types into codes, scales and offsets per group of 32 elements, without dequantizing.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0, block_q4_1, block_q4_K).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from roseinfer.kernels.linear.quantized_weight import INT4_GROUP, QuantizedWeight

_Blocks = npt.NDArray[np.uint8]  # [blocks, bytes per block]
_Floats = npt.NDArray[np.float32]
_Planes = tuple[_Blocks, _Floats, _Floats]  # codes [groups, 32], scales [groups], offsets [groups]


def read_groups(kind: str, blocks: _Blocks, shape: tuple[int, ...]) -> QuantizedWeight | None:
    """Return the 4-bit groups of a matrix [outputs, inputs] or of stacked ones, or None if their type has no groups."""
    unpack = _TYPES.get(kind)
    if unpack is None or len(shape) < 2 or shape[-1] % INT4_GROUP:
        return None
    codes, scales, offsets = (torch.from_numpy(plane) for plane in unpack(blocks))
    return QuantizedWeight("uint4", codes.view(shape), scales.view(*shape[:-1], -1), offsets.view(*shape[:-1], -1))


def _q4_0(blocks: _Blocks) -> _Planes:
    """Unpack Q4_0: a half-precision scale, then 16 bytes of codes, the first 16 elements in the low bits."""
    scales = _halves(blocks[:, :2])
    return _nibbles(blocks[:, 2:], 16), scales, np.zeros_like(scales)


def _q4_1(blocks: _Blocks) -> _Planes:
    """Unpack Q4_1: a half-precision scale and minimum, then 16 bytes of codes as in Q4_0."""
    scales, minima = _halves(blocks[:, :2]), _halves(blocks[:, 2:4])
    return _nibbles(blocks[:, 4:], 16), scales, minima + 8 * scales


def _q4_k(blocks: _Blocks) -> _Planes:
    """Unpack Q4_K: eight groups per block.

    Scales and minima have 6 bits per group, and are multiplied by two half-precision factors per block.
    """
    scale, minimum = _halves(blocks[:, 0:2])[:, None], _halves(blocks[:, 2:4])[:, None]
    low, high, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = scale * np.concatenate((low & 63, (mixed & 15) | (low >> 2 & 48)), axis=1)
    minima = -minimum * np.concatenate((high & 63, (mixed >> 4) | (high >> 2 & 48)), axis=1)
    return _nibbles(blocks[:, 16:], 32), scales.reshape(-1), (minima + 8 * scales).reshape(-1)


def _nibbles(packed: _Blocks, run: int) -> _Blocks:
    """Unpack 4-bit codes to [groups, 32].

    The low bits of `run` bytes are `run` consecutive elements; their high bits are the next `run` elements.
    """
    runs = packed.reshape(-1, run)
    codes = np.empty((len(runs), 2, run), np.uint8)
    np.bitwise_and(runs, 15, out=codes[:, 0])
    np.right_shift(runs, 4, out=codes[:, 1])
    return codes.reshape(-1, INT4_GROUP)


def _halves(stored: _Blocks) -> _Floats:
    """Convert one half-precision number per block, [blocks, 2] bytes, to float32 [blocks]."""
    return np.ascontiguousarray(stored).view(np.float16).astype(np.float32).reshape(-1)


_TYPES: dict[str, Callable[[_Blocks], _Planes]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}

GROUPED_TYPES = tuple(_TYPES)
"""Types whose groups are used unchanged."""
