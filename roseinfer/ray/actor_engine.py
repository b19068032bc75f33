"""Build the engine of an actor. The first actor of a node builds alone, the others follow together."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray.data import ActorPoolStrategy

from roseinfer.cache_folder import cache_folder, make_cache_folder
from roseinfer.config import EngineConfig
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.limits import CPU_BATCH_SIZE

_GPU_BATCH_SIZE = 512
"""Batch limit of a GPU for which an actor has requests at hand: the largest that an engine chooses by itself."""
_IN_FLIGHT = 1.25
"""Requests of an actor in full batches, so that a request waits whenever another one finishes."""


def node_engine(config: EngineConfig) -> Engine:
    """Build an engine, after the first actor of this node has built its own.

    The first one reads the weights from the disk into the page cache, and compiles kernels into the cache folder. The
    others then find both there.
    """
    with _after_the_first():
        return build_engine(config)


def batches_in_flight(config: EngineConfig, size: int, *, has_gpu: bool) -> int:
    """Return how many batches of `size` requests an actor needs at hand so that those of its engine stay full."""
    batch = config.max_batch_size or (_GPU_BATCH_SIZE if has_gpu else CPU_BATCH_SIZE)
    requests = int(_IN_FLIGHT * batch) + 1
    return -(-requests // size) + 1


def actor_pool(actors: int, in_flight: int) -> ActorPoolStrategy:
    """Return a pool of so many actors, each with `in_flight` batches at a time."""
    return ActorPoolStrategy(
        size=actors, max_tasks_in_flight_per_actor=in_flight, max_concurrent_calls_per_actor=in_flight
    )


@contextmanager
def _after_the_first() -> Iterator[None]:
    """Hold a lock in the cache folder: exclusive for the first process, then shared by those that waited for it."""
    path = cache_folder() / "building.lock"
    try:
        make_cache_folder(path.parent)
        file = path.open("wb")
    except OSError:  # without a cache folder, nothing is shared but the page cache
        yield
        return
    with file:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_SH)
        yield
