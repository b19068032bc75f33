"""Finding full KV blocks by content, so that requests with the same prefix share them.

The key of a block is a hash of its tokens and of the previous block's key, and therefore of all tokens up to its end.
Every hit is compared with the stored tokens and the previous key. Only two prefixes with the same SHA-256 could be
confused, where blocks with the same tokens follow them.
"""

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from roseinfer.cache.group_tables import GroupTables

Key = bytes

ROOT: Key = b""
"""Parent key of a request's first block."""

_TOKEN_BYTES = 4


# Without garbage collection: 65,536 prompt tokens have 4,096 blocks of 16, and with tuples of their tokens, collections
# took 4 ms.
class BlockContent(msgspec.Struct, frozen=True, gc=False):
    """A full block's tokens and, by its parent's key, all tokens before them."""

    key: Key
    parent: Key
    """Key of the previous block of the request, `ROOT` for the first one."""
    tokens: bytes
    """Token ids as 32-bit integers."""


def block_contents(parent: Key, tokens: Sequence[int], block_size: int) -> list[BlockContent]:
    """Return the contents of consecutive full blocks, preceded by the block with key `parent`."""
    packed = struct.pack(f"{len(tokens)}i", *tokens)
    size = block_size * _TOKEN_BYTES
    contents: list[BlockContent] = []
    for start in range(0, len(packed), size):
        own = packed[start : start + size]
        # A prompt of 16,384 tokens has 1,024 keys, so speed counts: processors have instructions for this hash.
        key = sha256(parent + own).digest()
        contents.append(BlockContent(key, parent, own))
        parent = key
    return contents


class _CachedBlock(msgspec.Struct, frozen=True, gc=False):
    block: int
    content: BlockContent


class PrefixIndex:
    """One-to-one mapping between contents and the blocks that store them, one block per group of layers."""

    def __init__(self) -> None:
        self._entries: dict[Key, _CachedBlock] = {}  # by the block's key in its group
        self._keys: dict[int, Key] = {}  # by block

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, contents: Iterable[BlockContent]) -> list[int]:
        """Return the blocks with these contents, in order, up to the first one that is not found."""
        blocks: list[int] = []
        for content in contents:
            entry = self._entries.get(content.key)
            if entry is None or entry.content != content:
                break
            blocks.append(entry.block)
        return blocks

    def match_groups(self, contents: Iterable[BlockContent], tables: GroupTables) -> list[int]:
        """Return the block table of the longest prefix that has all blocks that the token after it can see.

        Entries of blocks that no longer matter are 0.
        """
        size, num_groups = tables.block_size, tables.num_groups
        full = [group for group, window in enumerate(tables.windows) if window is None]
        entries: list[list[int]] = []
        chain: list[BlockContent] = []

        def finds(index: int, group: int) -> bool:
            """Look up a group's block, and write it to its row of `entries`."""
            entry = self._entries.get(_group_key(chain[index].key, group))
            if entry is None or entry.content != chain[index]:
                return False
            entries[index][group] = entry.block
            return True

        count = 0
        for content in contents:
            chain.append(content)
            entries.append([0] * num_groups)
            if not all(finds(count, group) for group in full):
                break
            count += 1

        def lacks(index: int) -> bool:
            """True if a window before the end of the first `count` blocks has this block, and it is not cached."""
            seeing = (groups for window, groups in tables.windowed.items() if index >= first_seen(window))
            return not all(finds(index, group) for groups in seeing for group in groups)

        def first_seen(window: int) -> int:
            return tables.first_held(window, count * size)

        # Walk back from the end. A block that is missing from a window makes the prefix end before it.
        index = count - 1
        while index >= min(map(first_seen, tables.windowed), default=count):
            if lacks(index):
                count = index
            index -= 1
        return [block for row in entries[:count] for block in row]

    def publish(self, block: int, content: BlockContent, group: int = 0) -> None:
        """Add a full block of a group, unless another block with the same content was added before."""
        key = _group_key(content.key, group)
        if key not in self._entries and block not in self._keys:
            self._entries[key] = _CachedBlock(block, content)
            self._keys[block] = key

    def forget(self, block: int) -> None:
        """Remove a block, because its content is about to be overwritten."""
        del self._entries[self._keys.pop(block)]


def _group_key(key: Key, group: int) -> Key:
    """Return the key of a block among those of all groups."""
    return key + group.to_bytes(2) if group else key
