"""Random weights, for work on speed."""

import math
from collections.abc import Iterable

import torch

STD = 0.02


def fill_dummy(tensors: Iterable[torch.Tensor], seed: int) -> None:
    """Fill tensors in place with random values of standard deviation 0.02.

    The values depend on the seed, the device's kind, and the tensors' order, shapes and dtypes. They are uniform:
    drawing normal ones takes a CPU six times as long, and speed depends on neither.
    """
    bound = STD * math.sqrt(3)
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for tensor in tensors:
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            tensor.uniform_(-bound, bound, generator=generators[tensor.device])
