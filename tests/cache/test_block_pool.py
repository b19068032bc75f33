"""The block pool allocates, shares and frees blocks like a model made of lists."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roseinfer.cache.block_pool import BlockPool
from roseinfer.errors import RoseinferError


class PoolMachine(RuleBasedStateMachine):
    """Requests that allocate, share and free blocks. `tables` are the blocks of each request."""

    @initialize(num_blocks=st.integers(1, 12), block_size=st.integers(1, 5))
    def start(self, num_blocks: int, block_size: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tables: list[list[int]] = []

    def held(self) -> list[int]:
        return [block for table in self.tables for block in table]

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.pool.num_free))
        allocated = self.pool.allocate(count)
        assert len(set(allocated)) == len(allocated) == count
        assert set(allocated).isdisjoint(self.held())
        assert all(0 <= block < self.pool.num_blocks for block in allocated)
        self.tables.append(allocated)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        shared = table[: data.draw(st.integers(0, len(table)))]
        self.pool.share(shared)
        self.tables.append(list(shared))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

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
