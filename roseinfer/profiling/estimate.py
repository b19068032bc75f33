"""Estimate of a trace's size before it is recorded, from the number of operators per step."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from roseinfer.config import ProfileConfig

_BYTES_PER_OP = {"cpu": 1050, "cuda": 2600}
"""Bytes of uncompressed trace per operator that reaches the dispatcher, by device type, measured on decode steps.

They include the operators called by that operator and, on a GPU, its launch, its kernel and the flow events between.
"""
_BYTES_PER_REPLAYED_EVENT = 720
"""Bytes of trace per GPU event of a graph replay, with its flow event from the launch. Measured on an H200."""
_OPTION_FACTORS = {"record_shapes": 1.5, "with_stack": 5.0, "profile_memory": 1.6, "with_modules": 2.0}
"""Measured factor by which each profiler option enlarges the trace."""


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager that counts dispatched operators. Counting slows them: use the manager for a warm-up only."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def trace_bytes(config: ProfileConfig, device: torch.device, ops_per_step: float, replayed_per_step: int = 0) -> int:
    """Estimate the uncompressed bytes of one cycle's trace.

    `ops_per_step` is the number of dispatched operators per step, `replayed_per_step` the number of GPU events that
    graph replays run per step.
    """
    size = ops_per_step * config.active * _BYTES_PER_OP[device.type]
    for option, factor in _OPTION_FACTORS.items():
        if getattr(config, option):
            size *= factor
    size += replayed_per_step * config.active * _BYTES_PER_REPLAYED_EVENT
    return int(size)
