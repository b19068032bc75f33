"""Random weights, for measurements of speed."""

import math
from collections.abc import Iterable

import torch

STD = 0.02


def fill_dummy(tensors: Iterable[torch.Tensor], seed: int) -> None:
    """Fill tensors in place with uniform random values of mean 0 and standard deviation 0.02.

    The values depend on the seed, on the type of device, and on the order, shapes and dtypes of the tensors. They are
    uniform because a CPU draws normal values six times slower, and the model's speed depends on neither.
    """
    bound = STD * math.sqrt(3)
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for tensor in tensors:
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            tensor.uniform_(-bound, bound, generator=generators[tensor.device])
