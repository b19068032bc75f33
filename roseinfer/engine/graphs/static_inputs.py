"""Graph inputs at fixed addresses: arrays uploaded in one copy, and block tables that are updated incrementally."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from roseinfer.upload import Array, aligned_offsets, upload, upload_into

Field: TypeAlias = tuple[int, type[np.generic]]
"""Length and element type of an array."""

_ALIGNED_BLOCKS = 4
"""Block numbers in 16 bytes. Triton would compile kernels again for the tables of a group at any other address."""


class StaticInputs:
    """Named arrays, written on the host and read on the device."""

    def __init__(self, device: torch.device, fields: Mapping[str, Field]) -> None:
        starts, total = aligned_offsets(length * np.dtype(dtype).itemsize for length, dtype in fields.values())
        self._host = np.zeros(total, np.uint8)
        self._device = torch.zeros(total, dtype=torch.uint8, device=device)
        self.on_host: dict[str, Array] = {}
        """Host arrays by name, initially zero."""
        self.on_device: dict[str, Tensor] = {}
        """Device tensors by name: the host arrays of the last `upload`, which kernels may have changed since."""
        for (name, (length, dtype)), start in zip(fields.items(), starts, strict=True):
            stop = start + length * np.dtype(dtype).itemsize
            self.on_host[name] = self._host[start:stop].view(dtype)
            self.on_device[name] = self._device[start:stop].view(getattr(torch, np.dtype(dtype).name))

    def fill(self, name: str, values: Sequence[float] | Array, size: int, padding: float = 0) -> None:
        """Write values to the beginning of a host array, and padding up to index `size`."""
        row = self.on_host[name]
        row[: len(values)] = values
        row[len(values) : size] = padding

    def upload(self) -> None:
        """Copy all arrays to the device in one copy that the host does not wait for."""
        upload_into(self._device, self._host)


class StaticBlockTables:
    """Block tables of a batch, on the device. Tables that have not changed are not copied again."""

    def __init__(self, rows: int, blocks: int, padding: int, device: torch.device, num_groups: int = 1) -> None:
        """`blocks` is the maximum number of blocks per request and group, `padding` the block number in table rows
        without a request.
        """
        self.num_groups = num_groups
        if num_groups > 1:
            blocks += -blocks % _ALIGNED_BLOCKS
        self.on_device = torch.full((num_groups, rows, blocks), padding, dtype=torch.int32, device=device)
        """Block numbers per group of layers, [groups, rows, blocks], int32. Entries after the end of a table are
        arbitrary valid blocks."""
        self._on_host = np.full((num_groups, rows, blocks), padding, dtype=np.int32)
        self._padding = padding
        self._tables: list[list[int] | None] = [None] * rows
        self._lengths = [num_groups] * rows

    def update(self, tables: Sequence[list[int]], size: int) -> None:
        """Write `tables` to the first rows, and padding to the rows after them up to `size`.

        If a row's table has grown since the last update, only its new blocks are copied. Tables are compared by
        identity: another list object is another table.
        """
        changed: list[int] = []
        groups = self.num_groups
        for row, table in enumerate(tables):
            known = self._lengths[row] if self._tables[row] is table else 0
            if known < len(table):
                for group in range(groups):
                    self._on_host[group, row, known // groups : len(table) // groups] = table[known + group :: groups]
                self._tables[row], self._lengths[row] = table, len(table)
                changed.append(row)
        for row in range(len(tables), size):
            if self._tables[row] is not None:
                self._on_host[:, row, 0] = self._padding
                self._tables[row], self._lengths[row] = None, groups
                changed.append(row)
        if changed:
            rows = slice(changed[0], changed[-1] + 1)
            columns = slice(0, max(self._lengths[row] for row in changed) // groups)
            (part,) = upload(self.on_device.device, self._on_host[:, rows, columns])
            self.on_device[:, rows, columns].copy_(part)
