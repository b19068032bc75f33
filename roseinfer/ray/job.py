"""A job of the command line: blocks of requests, answered by the actors of a Ray Data pipeline.

One task on the machine of the command reads the requests, as fast as the actors take them. So the files of requests and
answers need not be shared with the nodes of the actors. Only the model must be there.
"""

import pickle
from collections.abc import Callable, Generator, Iterable

import msgspec
import ray
from ray.data import DataContext

from roseinfer.config import EngineConfig, RunConfig
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.ray.actor_engine import actor_pool, batches_in_flight
from roseinfer.ray.block_stage import BlockStage
from roseinfer.ray.blocks import Block, BlockAnswer, BlockReader
from roseinfer.ray.cluster import check_room, cpus_per_actor, num_gpus
from roseinfer.workload.prompts import PromptForm

_CPU_BLOCK, _GPU_BLOCK = 16, 128
"""Maximum requests per block."""
_BLOCKS_PER_ACTOR = 4
"""Minimum blocks per actor, if there are enough requests: an actor that starts late then gets its share."""


class ActorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The actors of a job, and the blocks that they get."""

    engine: EngineConfig
    """Settings of each engine, for the device that an actor has."""
    actors: int
    cpus: float
    """CPUs per actor."""
    gpus: int
    """GPUs per actor."""
    block_size: int
    """Requests per block."""
    blocks_in_flight: int
    """Blocks that an actor has at hand."""


def plan_actors(engine: EngineConfig, actors: int | None, num_requests: int | None) -> ActorPlan:
    """Choose devices, the number of actors, and the size of blocks, on the connected cluster.

    Without `actors`, all GPUs are used; without GPUs, one actor. Raises UsageError for a device that the cluster lacks.
    """
    found = num_gpus()
    if engine.device == "cuda" and found == 0:
        raise UsageError("--device cuda needs GPUs, and the Ray cluster has none: add nodes with GPUs, or give cpu")
    on_gpu = found > 0 and engine.device != "cpu"
    ranks = engine.tensor_parallel
    count = actors or (max(found // ranks, 1) if on_gpu else 1)
    cores = cpus_per_actor(count)
    threads = engine.threads
    if not on_gpu and threads is None:
        threads = max(cores // ranks, 1)
    most = _GPU_BLOCK if on_gpu else _CPU_BLOCK
    share = most if num_requests is None else -(-num_requests // (_BLOCKS_PER_ACTOR * count))
    block_size = max(min(most, share), 1)
    return ActorPlan(
        engine=msgspec.structs.replace(engine, device="cuda" if on_gpu else "cpu", threads=threads),
        actors=count,
        cpus=1 if on_gpu else min((threads or 1) * ranks, cores),
        gpus=ranks if on_gpu else 0,
        block_size=block_size,
        blocks_in_flight=batches_in_flight(engine, block_size, has_gpu=on_gpu),
    )


def run_job(
    config: RunConfig,
    form: PromptForm,
    plan: ActorPlan,
    read: Callable[[], Iterable[Block]],
    *,
    warms_up: bool = False,
) -> Generator[BlockAnswer, None, None]:
    """Yield the answers to the blocks that `read` returns, each as soon as it is complete.

    `read` runs on this machine, in a process of its own. With `warms_up`, each actor runs the configured workload once
    before its first block. A block whose actor dies is computed again. Closing the
    iterator ends the actors. Raises RoseinferError if the actors cannot start, or if the job fails.
    """
    context = DataContext.get_current()
    context.target_max_block_size = 1  # a row, which holds a block of requests, is a block of Ray's
    context.enable_progress_bars = False
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    check_room(plan.actors, cpus=plan.cpus, gpus=plan.gpus)
    dataset = (
        ray.data.from_items([{"source": 0}], override_num_blocks=1)
        .map_batches(BlockReader(read), num_cpus=0, label_selector=here)
        .map_batches(
            BlockStage,
            fn_constructor_args=(msgspec.structs.replace(config, engine=plan.engine), form, warms_up),
            batch_size=1,
            compute=actor_pool(plan.actors, plan.blocks_in_flight),
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
        )
    )
    try:
        for row in dataset.iter_rows():
            answer: BlockAnswer = pickle.loads(row["answer"])
            if answer.failure is not None:
                raise answer.failure.error()
            yield answer
    except ray.exceptions.RayError as error:
        raise RoseinferError(f"the job on Ray failed: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
