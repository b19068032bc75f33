"""How much memory a measurement took."""

import resource
import sys

import torch


def forget_peak_memory(device: torch.device) -> None:
    """Start over, where the device can: from here on, `peak_memory_bytes` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """On a GPU, the most that tensors took there at once; on a CPU, the process's largest resident size so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
