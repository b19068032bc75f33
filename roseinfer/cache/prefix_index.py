"""Full KV blocks by content, so that requests with the same prefix share them.

A block's key is a hash of its tokens and of its parent's key, and so of everything before it. A hit is verified: the
tokens and the parent of the block found must be the ones asked for.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

Key = bytes

ROOT: Key = b""
"""The parent of a request's first block."""


def block_key(parent: Key, tokens: Sequence[int]) -> Key:
    """The key of the block that holds `tokens` behind the blocks that `parent` stands for."""
    return blake2b(array("q", tokens).tobytes(), key=parent, digest_size=16).digest()


@dataclass(frozen=True)
class _Entry:
    block: int
    parent: Key
    tokens: tuple[int, ...]


class PrefixIndex:
    """Which block holds which content; one block a content, one content a block."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._keys: dict[int, Key] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, token_ids: Sequence[int], keys: Sequence[Key], block_size: int) -> list[int]:
        """The blocks that hold the content of `keys`, from the first one on, up to the first that is not there."""
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
        """Offer a full block. Content that another block holds already keeps that one."""
        if key not in self._entries and block not in self._keys:
            self._entries[key] = _Entry(block, parent, tuple(tokens))
            self._keys[block] = key

    def forget(self, block: int) -> None:
        """The block's content is about to be overwritten."""
        del self._entries[self._keys.pop(block)]
