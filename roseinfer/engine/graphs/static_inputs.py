"""What graphs read at fixed addresses: numbers that one copy brings, and block tables of which the news are brought."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from roseinfer.upload import Array, aligned_offsets, upload, upload_into

Field: TypeAlias = tuple[int, type[np.generic]]
"""Length and type of an array."""


class StaticInputs:
    """Arrays by name, on the host to be written and on the device to be read."""

    def __init__(self, device: torch.device, fields: Mapping[str, Field]) -> None:
        starts, total = aligned_offsets(length * np.dtype(dtype).itemsize for length, dtype in fields.values())
        self._host = np.zeros(total, np.uint8)
        self._device = torch.zeros(total, dtype=torch.uint8, device=device)
        self.here: dict[str, Array] = {}
        """Zeros at first."""
        self.there: dict[str, Tensor] = {}
        """As of the last `bring`, and what was written there since."""
        for (name, (length, dtype)), start in zip(fields.items(), starts, strict=True):
            stop = start + length * np.dtype(dtype).itemsize
            self.here[name] = self._host[start:stop].view(dtype)
            self.there[name] = self._device[start:stop].view(getattr(torch, np.dtype(dtype).name))

    def fill(self, name: str, values: Sequence[float] | Array, size: int, padding: float = 0) -> None:
        """Write values to the beginning of an array, and padding up to `size`."""
        row = self.here[name]
        row[: len(values)] = values
        row[len(values) : size] = padding

    def bring(self) -> None:
        """All arrays to the device, by one copy that the host does not wait for."""
        upload_into(self._device, self._host)


class StaticBlockTables:
    """The block tables of a batch. Rows that stay where they were are not copied again."""

    def __init__(self, rows: int, blocks: int, padding: int, device: torch.device) -> None:
        """`padding` is the block of rows without a request."""
        self.there = torch.full((rows, blocks), padding, dtype=torch.int32, device=device)
        """[rows, blocks]; behind a table's end anything that is a block."""
        self._here = np.full((rows, blocks), padding, dtype=np.int32)
        self._padding = padding
        self._held: list[list[int] | None] = [None] * rows
        self._lengths = [1] * rows

    def bring(self, tables: Sequence[list[int]], size: int) -> None:
        """Row for row these tables, then padding up to row `size`.

        A table may have grown since the last time. One with other blocks is another list.
        """
        changed: list[int] = []
        for row, table in enumerate(tables):
            known = self._lengths[row] if self._held[row] is table else 0
            if known < len(table):
                self._here[row, known : len(table)] = table[known:]
                self._held[row], self._lengths[row] = table, len(table)
                changed.append(row)
        for row in range(len(tables), size):
            if self._held[row] is not None:
                self._here[row, 0] = self._padding
                self._held[row], self._lengths[row] = None, 1
                changed.append(row)
        if changed:
            rows = slice(changed[0], changed[-1] + 1)
            columns = slice(0, max(self._lengths[row] for row in changed))
            (news,) = upload(self.there.device, self._here[rows, columns])
            self.there[rows, columns].copy_(news)
