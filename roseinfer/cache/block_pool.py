"""Allocating and freeing KV blocks, and caching the contents of freed blocks for requests with the same prefix."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roseinfer.cache.group_tables import GroupTables
from roseinfer.cache.prefix_index import BlockContent, PrefixIndex
from roseinfer.errors import RoseinferError


@dataclass
class PrefixCacheStatistics:
    """Counts of the prefix cache, in prompt tokens of admitted requests and in blocks."""

    queried_tokens: int = 0
    """Tokens that were looked up."""
    hit_tokens: int = 0
    """Tokens found in cached blocks."""
    evicted_blocks: int = 0
    """Cached blocks that were reused for other contents."""

    @property
    def hit_percent(self) -> float:
        """Share of the looked-up tokens that were found, in percent."""
        return 100.0 * self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0


class BlockPool:
    """Allocates the blocks 0 to num_blocks - 1 with reference counts: several requests may share a block.

    A block without references is free. With a prefix cache, a published block retains its content while it is free, and
    is evicted when no empty block is left: the block freed first is evicted first.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_cache: bool = True,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        """`windows` has the sliding window of each group of layers, None for a group without one."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.tables = GroupTables(windows, block_size)
        """Arithmetic of the block tables."""
        self.prefix_cache = prefix_cache
        self.statistics = PrefixCacheStatistics()
        self._index = PrefixIndex()
        self._references = [0] * num_blocks
        # A stack: the block freed last is allocated next, while its memory is still in the processor's caches.
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # free and published, in the order of eviction

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: empty blocks, and cached blocks that can be evicted."""
        return len(self._empty) + len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """Return the number of blocks for `num_tokens` consecutive tokens of one request, over all groups."""
        return self.tables.length(num_tokens)

    def holders(self, block: int) -> int:
        """Return the number of requests that share the block."""
        return self._references[block]

    def allocate(self, count: int) -> list[int]:
        """Allocate `count` blocks with one reference each, evicting cached ones if necessary.

        The caller has checked `num_free`.
        """
        if count > self.num_free:
            raise RoseinferError(
                f"allocating {count} KV blocks while {self.num_free} are free: this is a bug in the scheduler"
            )
        kept = max(len(self._empty) - count, 0)
        allocated = self._empty[kept:][::-1]
        del self._empty[kept:]
        allocated += [self._evict() for _ in range(count - len(allocated))]
        for block in allocated:
            self._references[block] = 1
        return allocated

    def share(self, blocks: Sequence[int]) -> None:
        """Add a reference to each block, including free blocks that are still cached."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Remove one reference from each of a request's blocks, given in the order of its tokens."""
        for block in reversed(blocks):  # fewer requests can reuse the tail of a prefix, so it is evicted first
            references = self._references[block]
            if references == 0:
                raise RoseinferError(f"KV block {block} was freed twice: this is a bug in the scheduler")
            self._references[block] = references - 1
            if references > 1:
                continue
            if block in self._index:
                self._cached[block] = None
            else:
                self._empty.append(block)

    def match(self, contents: Iterable[BlockContent]) -> list[int]:
        """Return the block table of the longest cached prefix of a request. Nothing is allocated or shared.

        `contents` are those of the request's full blocks, from `block_contents`. Only the entries that
        `GroupTables.held` returns for the token after the prefix are blocks with the prefix's content.
        """
        if not self.prefix_cache:
            return []
        if self.tables.windows == (None,):
            return self._index.match(contents)
        return self._index.match_groups(contents, self.tables)

    def publish(self, block: int, content: BlockContent, group: int = 0) -> None:
        """Let later requests find an allocated block by its content, once all of its tokens are computed."""
        if self.prefix_cache:
            self._index.publish(block, content, group)

    def reset_prefix_cache(self) -> None:
        """Empty all free blocks, and reset the statistics. Blocks in use remain findable."""
        if len(self._index) == len(self._cached):
            self._index = PrefixIndex()  # no block in use is published: dropping all at once is faster
        else:
            for block in self._cached:
                self._index.forget(block)
        self._empty += self._cached
        self._cached.clear()
        self.statistics = PrefixCacheStatistics()

    def _evict(self) -> int:
        """Return the cached block that was freed first, no longer findable by its content."""
        block, _ = self._cached.popitem(last=False)
        self._index.forget(block)
        self.statistics.evicted_blocks += 1
        return block
