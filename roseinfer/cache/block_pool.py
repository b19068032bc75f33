"""Which KV blocks are free, who holds the others, and which contents are kept for later requests."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from roseinfer.cache.prefix_index import Key, PrefixIndex
from roseinfer.errors import RoseinferError


@dataclass
class PrefixCacheStatistics:
    """Tokens of admitted requests, and how many of them the cache held already."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    evicted_blocks: int = 0

    @property
    def hit_percent(self) -> float:
        return 100.0 * self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0


class BlockPool:
    """The numbers 0..num_blocks-1, each held by any number of requests.

    A block that nobody holds is free. With a prefix cache, a published one keeps its content while it is free, until
    a request needs the room: the one that was let go first goes first.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self.statistics = PrefixCacheStatistics()
        self._index = PrefixIndex()
        self._holders = [0] * num_blocks
        # A stack: the block freed last is handed out next, while its memory is still warm.
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # free but published, the first to go first

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._kept)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` consecutive tokens of one request fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)

    def holders(self, block: int) -> int:
        """How many requests hold the block."""
        return self._holders[block]

    def allocate(self, count: int) -> list[int]:
        """`count` free blocks, each now held once, contents gone. The caller has checked `num_free`."""
        if count > self.num_free:
            raise RoseinferError(f"asked for {count} KV blocks while {self.num_free} are free: a scheduler bug")
        taken = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks once more, free ones that are kept included."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._kept[block]
            self._holders[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Let go of a request's blocks, given in the order of its tokens."""
        for block in reversed(blocks):  # the tail of a prefix is of use to fewer requests, so it goes first
            if self._holders[block] == 0:
                raise RoseinferError(f"KV block {block} was freed twice: a scheduler bug")
            self._holders[block] -= 1
            if self._holders[block] > 0:
                continue
            if block in self._index:
                self._kept[block] = None
            else:
                self._empty.append(block)

    def match(self, token_ids: Sequence[int], keys: Sequence[Key]) -> list[int]:
        """Blocks that hold the leading full blocks of `token_ids`, whose keys are `keys`; changes nothing."""
        return self._index.match(token_ids, keys, self.block_size) if self.prefix_cache else []

    def publish(self, block: int, key: Key, parent: Key, tokens: Sequence[int]) -> None:
        """Let later requests find a held block by its content, now that all of it is computed."""
        if self.prefix_cache:
            self._index.publish(block, key, parent, tokens)

    def reset_prefix_cache(self) -> None:
        """Forget every content that nobody holds, and the statistics."""
        for block in self._kept:
            self._index.forget(block)
            self._empty.append(block)
        self._kept.clear()
        self.statistics = PrefixCacheStatistics()

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        self._index.forget(block)
        self.statistics.evicted_blocks += 1
        return block
