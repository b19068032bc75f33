"""The block pool allocates, shares and frees blocks like a model made of lists."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.prefix_index import ROOT, BlockContent, block_contents
from roseinfer.errors import RoseinferError


class PoolMachine(RuleBasedStateMachine):
    """Requests that allocate, publish, share and free blocks, beside the same pool with one block per operation.

    `tables` are the blocks of each request.
    """

    @initialize(num_blocks=st.integers(1, 12), block_size=st.integers(1, 5))
    def start(self, num_blocks: int, block_size: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tables: list[list[int]] = []
        self.empty = list(range(num_blocks))[::-1]
        self.cached: list[int] = []
        self.published: dict[int, int] = {}  # block -> its content
        self.num_contents = 0

    def held(self) -> list[int]:
        return [block for table in self.tables for block in table]

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        allocated = self.pool.allocate(data.draw(st.integers(0, self.pool.num_free)))
        for block in allocated:
            if self.empty:
                assert block == self.empty.pop()
            else:
                assert block == self.cached.pop(0)
                del self.published[block]
        self.tables.append(allocated)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        for block in data.draw(st.sampled_from(self.tables)):
            if block not in self.published:
                self.published[block] = self.num_contents
                self.pool.publish(block, self.content(self.num_contents))
                self.num_contents += 1

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        shared = table[: data.draw(st.integers(0, len(table)))]
        self.pool.share(shared)
        self.tables.append(list(shared))

    @precondition(lambda self: self.cached)
    @rule(data=st.data())
    def share_cached(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.cached))
        self.pool.share([block])
        self.cached.remove(block)
        self.tables.append([block])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.free(table)
        for block in reversed(table):
            if block not in self.held():
                (self.cached if block in self.published else self.empty).append(block)

    @rule()
    def reset(self) -> None:
        self.pool.reset_prefix_cache()
        for block in self.cached:
            self.empty.append(block)
            del self.published[block]
        self.cached.clear()

    @rule()
    def allocating_too_many_changes_nothing(self) -> None:
        free = self.pool.num_free
        with pytest.raises(RoseinferError, match=f"allocating {free + 1} KV blocks while {free} are free"):
            self.pool.allocate(free + 1)

    @invariant()
    def counts_agree(self) -> None:
        held = self.held()
        assert self.pool.num_free == self.pool.num_blocks - len(set(held))
        assert [self.pool.holders(b) for b in range(self.pool.num_blocks)] == [
            held.count(b) for b in range(self.pool.num_blocks)
        ]

    @invariant()
    def published_contents_and_no_others_are_found(self) -> None:
        blocks = {content: [block] for block, content in self.published.items()}
        for content in range(self.num_contents):
            assert self.pool.match([self.content(content)]) == blocks.get(content, [])

    def content(self, number: int) -> BlockContent:
        return block_contents(ROOT, [number] * self.pool.block_size, self.pool.block_size)[0]


PoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPoolAgainstSets = PoolMachine.TestCase


def test_freeing_a_block_twice_is_an_error() -> None:
    pool = BlockPool(4, 2)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(RoseinferError, match=f"block {blocks[1]} was freed twice"):
        pool.free(blocks[1:])


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_tokens_fill_blocks_the_last_one_in_part(tokens: int, blocks: int) -> None:
    assert BlockPool(1, 4).blocks_for(tokens) == blocks
