"""Normalization layers over packed tokens, each with the residual addition before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels.cpu import native_library
from roseinfer.kernels.norms import Norm, add_layer_norm, add_rms_norm, add_rms_norm_mirrored
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, own_weights

_FEW_ROWS = 16
"""Rows of a step up to which operations cost a CPU more than what they compute."""


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.eps = eps
        self._mirrored: Tensor | None = None

    def pack(self) -> None:
        """Bring a loaded weight into the form that is fastest on a CPU, where no kernel of its own is made for it."""
        if self.weight.device.type == "cpu" and self.weight.dtype == torch.bfloat16 and not native_library.is_loaded():
            self._mirrored = torch.cat((self.weight, self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add x [tokens, size] to the residual stream, None at its start; the norm of the sum, and the sum."""
        if self._mirrored is not None and len(x) <= _FEW_ROWS:
            return add_rms_norm_mirrored(x, residual, self._mirrored, self.eps)
        return add_rms_norm(x, residual, self.weight, self.eps)

    def weight_map(self) -> WeightMap:
        return own_weights(self)

    @property
    def description(self) -> Norm:
        """For kernels that have a norm inside."""
        return Norm(self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016)."""

    def __init__(self, size: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.bias = parameter(size) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add x [tokens, size] to the residual stream, None at its start; the norm of the sum, and the sum."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)

    def weight_map(self) -> WeightMap:
        return own_weights(self)

    @property
    def description(self) -> Norm:
        """For kernels that have a norm inside."""
        return Norm(self.weight, self.eps, self.bias, centered=True)
