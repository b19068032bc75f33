"""One entry of a checkpoint's table of tensors, as every reader describes it, and a part of such a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class StoredTensor(NamedTuple):
    """Shape and kind of a stored tensor, known before its values are read."""

    shape: tuple[int, ...]
    is_float: bool
    """True for floating-point and quantized values; False for integers, truth values and complex numbers."""


Range = tuple[int, int]
"""First index, and the index after the last."""


@dataclass(frozen=True, eq=False)
class StoredPart:
    """Some rows and some columns of a stored tensor."""

    rows: Tensor | None = None
    """Indexes of the rows, int64; None: all rows. A tensor of one dimension has rows only."""
    columns: tuple[Range, ...] | None = None
    """Ranges of columns; None: all columns."""

    def rows_of(self, stored: Tensor) -> Tensor:
        """Return the rows of a tensor whose first dimension runs over rows: a view if they are consecutive."""
        if self.rows is None:
            return stored
        rows = self.rows
        first, count = (int(rows[0]) if len(rows) else 0), len(rows)
        if torch.equal(rows, torch.arange(first, first + count)):
            return stored[first : first + count]
        return stored[rows]

    def of(self, stored: Tensor) -> Tensor:
        """Return the part of a stored tensor. Of a mapped file, only the part's pages are read."""
        kept = self.rows_of(stored)
        return kept if self.columns is None else columns_of(kept, self.columns)


def columns_of(matrix: Tensor, columns: tuple[Range, ...]) -> Tensor:
    """Return ranges of a matrix's columns: a view if it is one range."""
    parts = [matrix[:, slice(*borders)] for borders in columns]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


StoredParts = Mapping[str, StoredPart]
"""Parts to read, by the tensor's name in its file. Tensors that are not named are read whole."""

ALL_WHOLE: StoredParts = MappingProxyType({})
"""No parts: every tensor is read whole."""
