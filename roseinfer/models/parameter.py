"""Uninitialized parameters, which a loader fills."""

import torch
from torch import nn


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialized weight on the current default device, in the current default dtype."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
