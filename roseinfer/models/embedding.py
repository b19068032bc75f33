"""The embedding of tokens or positions, which may be the output head as well."""

from torch import Tensor, nn

from roseinfer.kernels.linear.form_choice import Packing, choose_table_form, plain_table
from roseinfer.kernels.linear.plain_weight import PlainTable
from roseinfer.kernels.linear.weight_form import TableForm, WeightForm
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, own_weights


class Embedding(nn.Module):
    """Looks up rows of a table: token ids or positions [tokens] -> [tokens, size].

    The table is padded to a multiple of 64 rows: an output head with an odd number of rows would take a
    GPU several times longer.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.rows = rows
        """Number of rows in use."""
        self.table = parameter(-(-rows // 64) * 64, size)
        """The plain table, [padded rows, size]. Empty, [0, size], once a packed form replaced it."""
        self.lookup: TableForm = plain_table(self.table, rows)
        """Weight form in which rows are looked up."""
        self.form: WeightForm = self.lookup
        """Weight form that multiplies by the table, used as the output head."""
        self._head_rows: tuple[int, int] | None = None  # rows of the head that this rank multiplies by

    def forward(self, ids: Tensor) -> Tensor:
        return self.lookup.rows(ids, self.table.dtype)

    def plus(self, ids: Tensor, other: "Embedding", other_ids: Tensor) -> Tensor:
        """Return rows of this table plus rows of another, [tokens, size]."""
        return self.lookup.sums_of_rows(ids, other.lookup, other_ids, self.table.dtype)

    def logits(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply by the table, used as the output head: [tokens, size] -> [tokens, rows]."""
        return self.form.matmul(hidden, bias)

    def divide_head(self, first: int, stop: int, padded: int) -> None:
        """As the output head, use the rows from `first` to `stop` only, of a table padded to `padded` rows.

        The rows after those in use are zeros. Call this before the table is loaded.
        """
        table = self.table.new_zeros(max(padded, len(self.table)), self.table.shape[1])
        self.table = nn.Parameter(table, requires_grad=False)
        self.lookup = plain_table(self.table, self.rows)
        self._head_rows = first, stop
        self.form = plain_table(self.table[first:stop], stop - first)

    def pack_head(self, packing: Packing = "none") -> None:
        """Choose the weight form of a loaded table that is also the output head. A packed table is left unchanged.

        With "int4", the table is quantized to 8 bits. The plain table is dropped if rows can be looked up in the
        chosen form.
        """
        if not isinstance(self.form, PlainTable):
            return
        if self._head_rows is not None:
            first, stop = self._head_rows
            self.form = choose_table_form(self.table[first:stop], stop - first, packing)
            return
        self.form = choose_table_form(self.table, self.rows, packing)
        if isinstance(self.form, TableForm):
            self.lookup = self.form
            if not isinstance(self.form, PlainTable):
                self.table = nn.Parameter(self.table.new_empty(0, self.table.shape[1]), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The rows in use, [rows, size]: a view, or a copy of a packed table."""
        return self.lookup.values(self.table.dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes that one matrix product reads if the table is the output head."""
        return self.form.nbytes

    @property
    def row_bytes(self) -> int:
        """Bytes that looking up a token reads."""
        return self.lookup.row_bytes

    def weight_map(self) -> WeightMap:
        """Map the checkpoint tensor `weight` to the table."""
        return own_weights(self)
