"""The token embedding, which may be the output head as well."""

import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels.linear.packed_weight import PackedTable, PackedWeight
from roseinfer.kernels.linear.packing import Packing, pack
from roseinfer.kernels.linear.skinny_linear import skinny_linear
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, own_weights


class Embedding(nn.Module):
    """Rows of a table: token ids or positions [tokens] -> [tokens, size].

    The table has up to 63 rows more than are used: as a head, a matrix of an odd number of rows would take a GPU
    several times as long.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.rows = rows
        self.table = parameter(-(-rows // 64) * 64, size)
        self.packed: PackedWeight | None = None

    @property
    def weight(self) -> Tensor:
        """The rows that are used, [rows, size]: a view, or a copy of a packed table."""
        return self.packed.values(self.table.dtype) if isinstance(self.packed, PackedTable) else self.table[: self.rows]

    @property
    def weight_bytes(self) -> int:
        """What a product with the table as a head reads."""
        return self.weight.nbytes if self.packed is None else self.packed.nbytes

    @property
    def row_bytes(self) -> int:
        """What looking up a token reads."""
        if isinstance(self.packed, PackedTable):
            return self.packed.row_bytes
        return self.table.shape[1] * self.table.itemsize

    def weight_map(self) -> WeightMap:
        return own_weights(self)

    def forward(self, ids: Tensor) -> Tensor:
        if isinstance(self.packed, PackedTable):
            return self.packed.rows(ids, self.table.dtype)
        return F.embedding(ids, self.table)

    def logits(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """The table as a head: [tokens, size] -> [tokens, rows]."""
        if self.packed is not None:
            return self.packed.linear(hidden, bias)
        logits = skinny_linear(hidden, self.table if hidden.is_cuda else self.weight)[:, : self.rows]
        return logits if bias is None else logits + bias

    def pack_head(self, packing: Packing = "none") -> None:
        """Bring a loaded table, which is the head as well, into the form that the CPU's kernels read.

        Quantized, it is so to 8 bits always. Where the form has rows to look up, the plain table is let go.
        """
        if self.packed is None:
            self.packed = pack(self.weight, "none" if packing == "none" else "int8", self.rows)
            if isinstance(self.packed, PackedTable):
                self.table = nn.Parameter(self.table.new_empty(0, self.table.shape[1]), requires_grad=False)
