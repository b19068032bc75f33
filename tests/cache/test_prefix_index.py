"""Blocks are found by content: by their own tokens and by all tokens before them."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roseinfer.cache.prefix_index import ROOT, BlockContent, PrefixIndex, block_contents

token_lists = st.lists(st.integers(0, 2), max_size=12)


def one_by_one(tokens: Sequence[int], block_size: int) -> list[BlockContent]:
    """Return the contents of the full blocks of a request, each from a call of its own."""
    contents: list[BlockContent] = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = contents[-1].key if contents else ROOT
        contents += block_contents(parent, tokens[start : start + block_size], block_size)
    return contents


@given(requests=st.lists(token_lists, max_size=6), block_size=st.integers(1, 4))
def test_a_request_finds_the_blocks_of_its_longest_published_prefix(requests: list[list[int]], block_size: int) -> None:
    index = PrefixIndex()
    blocks: dict[tuple[int, ...], int] = {}  # by all tokens up to the block's end
    for tokens in requests:
        full = len(tokens) // block_size * block_size
        contents = block_contents(ROOT, tokens[:full], block_size)
        assert contents == one_by_one(tokens, block_size)
        ends = [tuple(tokens[:end]) for end in range(block_size, full + 1, block_size)]
        known = [blocks[end] for end in ends if end in blocks]
        assert index.match(contents) == known
        for end, content in zip(ends, contents, strict=True):
            block = blocks.setdefault(end, len(blocks))
            index.publish(block, content)
    assert len(index) == len(blocks)


def test_a_hash_collision_is_no_hit() -> None:
    index = PrefixIndex()
    first, second = block_contents(ROOT, [1, 2, 3, 4], 2)
    index.publish(7, first)
    index.publish(8, second)
    assert index.match([first, second]) == [7, 8]
    assert index.match([replace(first, tokens=second.tokens), second]) == []
    assert index.match([first, replace(second, parent=ROOT)]) == [7]
