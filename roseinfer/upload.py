"""Uploading arrays from the host to a device in one copy, without waiting for it."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]

_ALIGNMENT = 64
"""Alignment of each array in the copy, in bytes. Triton specializes kernels on pointers that are multiples of 16, and
would compile them again for an array at any other offset."""


def upload(device: torch.device, *arrays: Array) -> list[Tensor]:
    """Return the arrays as tensors on the device, with their shapes and dtypes. The host does not wait for the copy.

    Each call uses its own pinned staging memory, because the previous step's copy may still be reading its source.
    That is cheap and safe: torch's host allocator caches pinned memory, and reuses it only after the copy's event.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array.copy()) for array in arrays]
    return staged(device, arrays, pin_memory=True)


def upload_into(target: Tensor, array: Array) -> None:
    """Copy an array to a tensor of the same shape and dtype. The host does not wait for the copy."""
    if target.device.type == "cpu":
        target.copy_(torch.from_numpy(array))
        return
    staging = torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
    staging.numpy()[...] = array
    target.copy_(staging, non_blocking=True)


def aligned_offsets(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Return the aligned offsets of consecutive arrays with these sizes in bytes, and the total size in bytes."""
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts, total


def staged(device: torch.device, arrays: Sequence[Array], *, pin_memory: bool) -> list[Tensor]:
    """Pack the arrays into one staging tensor, copy it to the device, and return views of the copy, one per array."""
    starts, total = aligned_offsets(array.nbytes for array in arrays)
    staging = torch.empty(total, dtype=torch.uint8, pin_memory=pin_memory)
    packed = staging.numpy()
    for array, start in zip(arrays, starts, strict=True):
        packed[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    copy = staging.to(device, non_blocking=True)
    return [
        copy[start : start + array.nbytes].view(getattr(torch, array.dtype.name)).view(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]
