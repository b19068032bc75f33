"""Peak memory of a measurement."""

import resource
import sys

import torch


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory_bytes` returns. On a CPU the peak of the process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return peak bytes: of allocated tensors on a GPU, of the process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
