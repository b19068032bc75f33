"""Block tables of requests, for models whose layers are in one or several groups.

A request has one block table for all groups: with G groups, entries i * G to i * G + G - 1 are the blocks of the
request's tokens i * block_size to (i + 1) * block_size - 1, one block per group. With one group, this is a plain block
table.

A group with a sliding window frees the blocks that no later query can see. Their entries stay in the table, but may
name blocks of other requests by then. Kernels do not use what they read there: they mask, or skip, what is outside the
window.
"""

from collections.abc import Sequence


class GroupTables:
    """Arithmetic of block tables: which entries a request must hold for a query, and which it can free."""

    def __init__(self, windows: Sequence[int | None], block_size: int) -> None:
        """`windows` has the sliding window of each group's layers, None for layers without one."""
        self.windows = tuple(windows)
        self.num_groups = len(self.windows)
        self.block_size = block_size
        groups: dict[int, list[int]] = {}
        for group, window in enumerate(self.windows):
            if window is not None:
                groups.setdefault(window, []).append(group)
        self.windowed = groups
        """Groups by their window in tokens, without those that have none."""

    def length(self, num_tokens: int) -> int:
        """Return the number of entries in the table of a request with `num_tokens` tokens."""
        return -(-num_tokens // self.block_size) * self.num_groups

    def most_held(self, num_tokens: int, chunk_tokens: int) -> int:
        """Return the most blocks that a request of `num_tokens` tokens holds, computed in chunks of `chunk_tokens`."""
        whole = -(-num_tokens // self.block_size)
        held = whole * self.num_groups
        for window, groups in self.windowed.items():
            # The window before the first query of a chunk and the chunk itself; they may start inside a block.
            held -= max(whole - -(-(window + chunk_tokens) // self.block_size) - 1, 0) * len(groups)
        return held

    def first_held(self, window: int, query: int) -> int:
        """Return the index of the first block with tokens that the query at this position can see."""
        return max(query - window + 1, 0) // self.block_size

    def held(self, table: Sequence[int], query: int) -> Sequence[int]:
        """Return the blocks that a request holds whose next query is at this position, in the order of its tokens."""
        if not self.windowed:
            return table
        firsts = [0] * self.num_groups
        for window, groups in self.windowed.items():
            for group in groups:
                firsts[group] = self.first_held(window, query)
        common = max(firsts) * self.num_groups
        before = [
            block for at, block in enumerate(table[:common]) if at // self.num_groups >= firsts[at % self.num_groups]
        ]
        return [*before, *table[common:]]

    def behind(self, table: Sequence[int], query: int, later: int) -> list[int]:
        """Return the blocks that the query at position `query` can see, and none from position `later` on."""
        found: list[int] = []
        for window, groups in self.windowed.items():
            first, stop = self.first_held(window, query), self.first_held(window, later)
            if first < stop:
                for group in groups:
                    found += table[first * self.num_groups + group : stop * self.num_groups : self.num_groups]
        return found

    def serves(self, held_query: int, query: int) -> bool:
        """True if the blocks held for the query at `held_query` include those that an earlier `query` can see."""
        return all(self.first_held(window, held_query) <= self.first_held(window, query) for window in self.windowed)
