"""Limit how often an actor's process may die with the same work: a block of requests, or building its engine.

Ray starts a dead actor again, and gives it the same blocks again, without end. Each attempt is counted in the key-value
store of the cluster, which outlives the process, and the count is removed when the attempt ends in any other way.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from roseinfer.errors import RoseinferError
from roseinfer.ray.blocks import Block

MAX_DEATHS = 3
"""Deaths of a process with the same work, after which the work is not attempted again."""
_NAMESPACE = "roseinfer-attempts"


@contextmanager
def attempt(key: str, what: str, advice: str) -> Iterator[None]:
    """Count an attempt at some work for the time of the context. Outside Ray, nothing is counted.

    Raises RoseinferError if processes died in all of the allowed attempts.
    """
    if not ray.is_initialized():
        yield
        return
    deaths = _deaths(key)
    if deaths >= MAX_DEATHS:
        raise RoseinferError(
            f"{what} killed the process of an actor {deaths} times, perhaps for lack of memory: {advice}"
        )
    _internal_kv_put(key, str(deaths + 1), namespace=_NAMESPACE)
    try:
        yield
    finally:
        _internal_kv_del(key, namespace=_NAMESPACE)


class BlockAttempts:
    """The attempts at blocks in one actor.

    A process that dies loses all blocks that it computes, of which one may be the cause. So lost blocks are computed
    one at a time. Then only the cause is lost again, and reaches the limit.
    """

    def __init__(self) -> None:
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def attempt(self, block: Block) -> AsyncIterator[None]:
        """Count an attempt at a block for the time of the context, and wait for others if it was lost before.

        Raises RoseinferError if it was lost too often.
        """
        key = f"block-{ray.get_runtime_context().get_job_id()}-{block.number}" if ray.is_initialized() else ""
        async with self._alone if key and _deaths(key) else nullcontext():
            with attempt(key, _named(block), "leave these requests out, or lower --max-batch-size"):
                yield


def _deaths(key: str) -> int:
    return int(_internal_kv_get(key, namespace=_NAMESPACE) or 0)


def _named(block: Block) -> str:
    if block.drawn is not None:
        first, last = block.drawn[0], block.drawn[1] - 1
    else:
        first, last = block.requests[0].place, block.requests[-1].place
    return f"block {block.number} (requests {first + 1} to {last + 1})"
