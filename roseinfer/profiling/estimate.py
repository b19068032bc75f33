"""How large a trace is going to be, from how many operators a step calls."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from roseinfer.config import ProfileConfig

_BYTES_PER_OP = {"cpu": 1050, "cuda": 2600}
"""Of uncompressed trace for each operator that reaches the dispatcher, measured on decode steps: an operator brings
further ones that it calls, and on a GPU a launch, a kernel and the arrows between them."""
_BYTES_PER_REPLAYED_EVENT = 720
"""Of an event of a graph replay and its arrow from the launch, measured on an H200."""
_FACTORS = {"record_shapes": 1.5, "with_stack": 5.0, "profile_memory": 1.6, "with_modules": 2.0}


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts operators. It slows them, so it belongs into a warm-up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def trace_bytes(config: ProfileConfig, device: torch.device, ops_per_step: float, replayed_per_step: int = 0) -> int:
    """A rough size of one cycle's trace, uncompressed; `replayed_per_step` are GPU events of graph replays."""
    size = ops_per_step * config.active * _BYTES_PER_OP[device.type]
    for option, factor in _FACTORS.items():
        if getattr(config, option):
            size *= factor
    size += replayed_per_step * config.active * _BYTES_PER_REPLAYED_EVENT
    return int(size)
