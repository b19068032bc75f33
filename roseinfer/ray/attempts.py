"""Limit how often an actor's process may die with the same work: a batch of requests, or building its engine.

Ray starts a dead actor again, and gives it the same batches again, without end. Each attempt is counted in the
key-value store of the cluster, which outlives the process, and the count is removed when the attempt ends in any other
way.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from itertools import count

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from roseinfer.errors import RoseinferError

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


def attempt_to_build(advice: str) -> AbstractContextManager[None]:
    """Count an attempt to build the engine of this actor for the time of the context, see `attempt`."""
    return attempt(f"engine-{_this_actor()}", "building the engine", advice)


class BatchAttempts:
    """The attempts at batches of requests in one actor.

    A process that dies loses all batches that it computes, of which one may be the cause. So lost batches are computed
    one at a time. Then only the cause is lost again, and reaches the limit.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._actor = _this_actor()
        self._alone = asyncio.Lock()
        self._running: set[str] = set()

    @asynccontextmanager
    async def attempt(self, key: str, what: str) -> AsyncIterator[None]:
        """Count an attempt at a batch for the time of the context, and wait for others if it was lost before.

        `key` is the same whenever Ray repeats the batch. Different batches with one key, such as batches of equal rows,
        are counted apart while they run. `what` names the batch in the error. Raises RoseinferError if the batch was
        lost too often.
        """
        if not ray.is_initialized():
            yield
            return
        own = next(numbered for n in count() if (numbered := f"batch-{self._actor}-{key}-{n}") not in self._running)
        self._running.add(own)
        try:
            async with self._alone if _deaths(own) else nullcontext():
                with attempt(own, what, self._advice):
                    yield
        finally:
            self._running.remove(own)


def _this_actor() -> str:
    """Return the id of this process's actor, which a restart keeps, or the id of the job in any other process."""
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return str(context.get_actor_id() or context.get_job_id())


def _deaths(key: str) -> int:
    return int(_internal_kv_get(key, namespace=_NAMESPACE) or 0)
