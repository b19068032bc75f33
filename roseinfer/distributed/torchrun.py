"""Ranks that torchrun has started, by its environment variables."""

import os
from typing import NamedTuple

from roseinfer.errors import UsageError


class TorchrunRank(NamedTuple):
    """Place of this process among those that torchrun has started."""

    rank: int
    size: int
    local_rank: int


def torchrun_rank(num_ranks: int) -> TorchrunRank | None:
    """Return this process's place, or None if torchrun has not started it.

    Raises UsageError if torchrun started another number of processes than `num_ranks`, or on several hosts.
    """
    if not is_under_torchrun():
        return None
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if size != num_ranks:
        raise UsageError(
            f"--tensor-parallel {num_ranks} runs under torchrun with WORLD_SIZE={size}: "
            f"give torchrun --nproc-per-node {num_ranks}, or --tensor-parallel {size}"
        )
    if "LOCAL_WORLD_SIZE" in os.environ and _number("LOCAL_WORLD_SIZE") != size:
        raise UsageError("--tensor-parallel needs all ranks on one host: start torchrun with --nnodes 1")
    return TorchrunRank(rank, size, _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank)


def is_under_torchrun() -> bool:
    """True if torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_other_rank(num_ranks: int) -> bool:
    """True if torchrun has started this process as another of several ranks than rank 0."""
    place = torchrun_rank(num_ranks) if num_ranks > 1 else None
    return place is not None and place.rank > 0


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        raise UsageError(f"invalid environment variable {name}={value!r}: torchrun sets it to a number")
    return int(value)
