"""Dividing the requests of a file over several processes, by their ids."""

from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from roseinfer.errors import UsageError

MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """The requests of one of `count` processes.

    A request's shard is a hash of its id, so it does not depend on the order or number of the requests.
    """

    index: int
    """From 0 to count - 1."""
    count: int

    def holds(self, request_id: str | int) -> bool:
        """True if the request belongs to this shard. The ids 1 and "1" are different requests."""
        digest = blake2b(msgspec.json.encode(request_id), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.index

    @property
    def file_name(self) -> str:
        """Name of the shard's file of answers, in a folder of all shards."""
        return f"answers-{self.index}-of-{self.count}.jsonl"


def parse_shard(text: str) -> Shard:
    """Parse `I/N`, the value of --shard. Raises UsageError for anything else."""
    index, slash, count = text.partition("/")
    if slash and index.isascii() and index.isdigit() and count.isascii() and count.isdigit():
        shard = Shard(int(index), int(count))
        if shard.index < shard.count <= MAX_SHARDS:
            return shard
    raise UsageError(f"invalid --shard {text!r}: give I/N, such as 0/8 to 7/8 for eight processes")
