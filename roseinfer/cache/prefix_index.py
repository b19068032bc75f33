"""Finding full KV blocks by content, so that requests with the same prefix share them.

The key of a block is a hash of its tokens and of the previous block's key, and therefore of all tokens up to its end.
Every hit is verified against the stored tokens and the previous key, so that a hash collision is harmless.
"""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

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
    """One-to-one mapping between contents and the blocks that store them."""

    def __init__(self) -> None:
        self._entries: dict[Key, _CachedBlock] = {}
        self._keys: dict[int, Key] = {}  # by block

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

    def publish(self, block: int, key: Key, parent: Key, tokens: Sequence[int]) -> None:
        """Add a full block, unless another block with the same content was added before."""
        if key not in self._entries and block not in self._keys:
            self._entries[key] = _CachedBlock(block, parent, tuple(tokens))
            self._keys[block] = key

    def forget(self, block: int) -> None:
        """Remove a block, because its content is about to be overwritten."""
        del self._entries[self._keys.pop(block)]
