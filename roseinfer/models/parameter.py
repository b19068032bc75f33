"""Uninitialized parameters, which a loader fills."""

import torch
from torch import nn


def parameter(*shape: int) -> nn.Parameter:
    """Return an uninitialized parameter on the default device, in the default dtype."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
