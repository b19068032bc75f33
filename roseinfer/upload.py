"""What the host computed for one step, on the device by one copy."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]

_ALIGNMENT = 64
"""Bytes that every array begins at a multiple of. Triton compiles a kernel again for a pointer that is aligned to 16
bytes no longer, so where an array happens to lie in the copy must not change that."""


def upload(device: torch.device, *arrays: Array) -> list[Tensor]:
    """Copies of the arrays as tensors on the device, of their shapes and dtypes; the host does not wait for them.

    Each call stages in memory of its own: a step may be launched while the copy for the one before is still under
    way, and must not overwrite its source. Torch's host allocator caches pinned memory, so that is no allocation, and
    hands out what a non-blocking copy reads only after that copy's event.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array.copy()) for array in arrays]
    return staged(device, arrays, pin_memory=True)


def upload_into(target: Tensor, array: Array) -> None:
    """Copy an array to a tensor of its shape and dtype, as `upload` does."""
    if target.device.type == "cpu":
        target.copy_(torch.from_numpy(array))
        return
    staging = torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
    staging.numpy()[...] = array
    target.copy_(staging, non_blocking=True)


def places(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where arrays of so many bytes begin that lie one behind the other, and how many bytes that takes in all."""
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts, total


def staged(device: torch.device, arrays: Sequence[Array], *, pin_memory: bool) -> list[Tensor]:
    """The arrays one behind the other in host memory, brought to the device, and taken apart there."""
    starts, total = places(array.nbytes for array in arrays)
    staging = torch.empty(total, dtype=torch.uint8, pin_memory=pin_memory)
    place = staging.numpy()
    for array, start in zip(arrays, starts, strict=True):
        place[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = staging.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(getattr(torch, array.dtype.name)).view(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]
