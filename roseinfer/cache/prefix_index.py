"""Finding full KV blocks by content, so that requests with the same prefix share them.

The key of a block is a hash of its tokens and of the previous block's key, and therefore of all tokens up to its end.
Every hit is verified against the stored tokens and the previous key, so that a hash collision is harmless.
"""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from roseinfer.cache.group_tables import GroupTables

Key = bytes

ROOT: Key = b""
"""Parent key of a request's first block."""


def block_key(parent: Key, tokens: Sequence[int]) -> Key:
    """Return the key of a block with these tokens, preceded by the block with key `parent`."""
    # A prompt of 16,384 tokens has 1,024 keys, so speed counts: processors have instructions for this hash.
    return sha256(parent + array("q", tokens).tobytes()).digest()


class _CachedBlock(NamedTuple):
    block: int
    parent: Key
    tokens: tuple[int, ...]


class PrefixIndex:
    """One-to-one mapping between contents and the blocks that store them, one block per group of layers."""

    def __init__(self) -> None:
        self._entries: dict[Key, _CachedBlock] = {}  # by the block's key in its group
        self._keys: dict[int, Key] = {}  # by block

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, token_ids: Sequence[int], keys: Iterable[Key], block_size: int) -> list[int]:
        """Return the blocks with the contents of `keys`, in order, up to the first key that is not found."""
        blocks: list[int] = []
        parent = ROOT
        for index, key in enumerate(keys):
            entry = self._entries.get(key)
            tokens = token_ids[index * block_size : (index + 1) * block_size]
            if entry is None or entry.parent != parent or entry.tokens != tuple(tokens):
                break
            blocks.append(entry.block)
            parent = key
        return blocks

    def match_groups(self, token_ids: Sequence[int], keys: Iterable[Key], tables: GroupTables) -> list[int]:
        """Return the block table of the longest prefix that has all blocks that the token after it can see.

        Entries of blocks that no longer matter are 0.
        """
        size, num_groups = tables.block_size, tables.num_groups
        full = [group for group, window in enumerate(tables.windows) if window is None]
        entries: list[list[int]] = []
        chain: list[Key] = [ROOT]

        def finds(index: int, group: int) -> bool:
            """Look up a group's block, and write it to its row of `entries`."""
            entry = self._entries.get(_group_key(chain[index + 1], group))
            tokens = token_ids[index * size : (index + 1) * size]
            if entry is None or entry.parent != chain[index] or entry.tokens != tuple(tokens):
                return False
            entries[index][group] = entry.block
            return True

        count = 0
        for key in keys:
            chain.append(key)
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

    def publish(self, block: int, key: Key, parent: Key, tokens: Sequence[int], group: int = 0) -> None:
        """Add a full block of a group, unless another block with the same content was added before."""
        key = _group_key(key, group)
        if key not in self._entries and block not in self._keys:
            self._entries[key] = _CachedBlock(block, parent, tuple(tokens))
            self._keys[block] = key

    def forget(self, block: int) -> None:
        """Remove a block, because its content is about to be overwritten."""
        del self._entries[self._keys.pop(block)]


def _group_key(key: Key, group: int) -> Key:
    """Return the key of a block among those of all groups."""
    return key + group.to_bytes(2) if group else key
