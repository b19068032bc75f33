"""Which KV blocks are free, and who gave them back."""

from roseinfer.errors import RoseinferError


class BlockPool:
    """Hands out the numbers 0..num_blocks-1, each to one holder at a time."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # A stack: the block freed last is handed out next, while its memory is still warm.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` consecutive tokens of one request fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """`count` free blocks. The caller has checked `num_free`."""
        if count > len(self._free):
            raise RoseinferError(f"asked for {count} KV blocks while {len(self._free)} are free: a scheduler bug")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._is_free[block] = False
        return taken

    def free(self, blocks: list[int]) -> None:
        """Take blocks back."""
        for block in reversed(blocks):
            if self._is_free[block]:
                raise RoseinferError(f"KV block {block} was freed twice: a scheduler bug")
            self._is_free[block] = True
            self._free.append(block)
