"""Devices and threads of the ranks of tensor parallelism, and the calls that cannot work."""

import os

import torch

from roseinfer.config import EngineConfig
from roseinfer.distributed.torchrun import TorchrunRank, torchrun_rank
from roseinfer.engine.device import resolve_device
from roseinfer.errors import UsageError
from roseinfer.kernels.linear.quantized_weight import INT4_GROUP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.tensor_parallel import Division
from roseinfer.processors import usable_processors


def rank_device(config: EngineConfig) -> tuple[torch.device, TorchrunRank | None]:
    """Return the device of this process, and its place if torchrun has started it as one of several ranks.

    A process that starts its ranks itself is rank 0. Raises UsageError if there are fewer GPUs than ranks.
    """
    device, num_ranks = resolve_device(config.device), config.tensor_parallel
    if num_ranks == 1:
        return device, None
    place = torchrun_rank(num_ranks)
    if device.type != "cuda":
        return device, place
    if ":" in config.device:
        raise UsageError(f"--device {config.device} is one GPU: give --device cuda with --tensor-parallel {num_ranks}")
    count = torch.cuda.device_count()
    local_rank = 0 if place is None else place.local_rank
    if num_ranks > count or local_rank >= count:
        raise UsageError(
            f"--tensor-parallel {num_ranks} needs {num_ranks} GPUs, and PyTorch sees {count}: give at most {count}"
        )
    return torch.device("cuda", local_rank), place


def check_divides(model: ModelConfig, num_ranks: int, quantization: str) -> None:
    """Raise UsageError if a model cannot be divided among so many ranks."""
    if num_ranks == 1:
        return
    part = Division(model, 0, num_ranks).config
    width = part.intermediate_size if part.experts is None else part.experts.intermediate_size
    widths = {"MLP width": width, "query width": part.num_heads * part.head_dim}
    if quantization == "int4":
        for what, width in widths.items():
            if width % INT4_GROUP:
                raise UsageError(
                    f"--quantize int4 has groups of {INT4_GROUP} columns, which do not divide the {what} of {width} "
                    f"that each of --tensor-parallel {num_ranks} has: give --quantize int8"
                )


def share_threads(threads: int | None, num_ranks: int) -> None:
    """Divide the processor's cores among ranks on a CPU, unless the user chose a number of threads."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(usable_processors()) // num_ranks)))
