"""Normalization layers over packed tokens, each with the residual addition before it."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.distributed.rank_group import RankGroup
from roseinfer.kernels.linear.form_choice import prefers_mirrored_norm
from roseinfer.kernels.norms import Norm, add_layer_norm, add_rms_norm, add_rms_norm_mirrored
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, own_weights

_FEW_ROWS = 16
"""Maximum rows for which a CPU spends more time on dispatching operations than on computing."""


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.eps = eps
        self.ranks: RankGroup | None = None
        """Ranks whose results the norm joins: its input is a partial sum. None: the input is complete."""
        self._mirrored: Tensor | None = None

    def pack(self) -> None:
        """Also store the loaded weight repeated twice, if `add_rms_norm_mirrored` is faster for few rows."""
        if prefers_mirrored_norm(self.weight):
            self._mirrored = torch.cat((self.weight, self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return norm(x + residual) and x + residual, [tokens, size] each. If residual is None, the sum is x."""
        return self.normalized(x, residual) if self.ranks is None else self.ranks.join(x, residual, self)

    def normalized(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute `after` for a complete input."""
        if self._mirrored is not None and len(x) <= _FEW_ROWS:
            return add_rms_norm_mirrored(x, residual, self._mirrored, self.eps)
        return add_rms_norm(x, residual, self.weight, self.eps)

    @cached_property
    def description(self) -> Norm:
        """The norm's parameters, for kernels that compute the norm themselves."""
        return Norm(self.weight, self.eps)

    def weight_map(self) -> WeightMap:
        """Map the checkpoint tensor `weight` to this norm's parameter."""
        return own_weights(self)


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016)."""

    def __init__(self, size: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.bias = parameter(size) if bias else None
        self.eps = eps
        self.ranks: RankGroup | None = None
        """Ranks whose results the norm joins: its input is a partial sum. None: the input is complete."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return norm(x + residual) and x + residual, [tokens, size] each. If residual is None, the sum is x."""
        return self.normalized(x, residual) if self.ranks is None else self.ranks.join(x, residual, self)

    def normalized(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute `after` for a complete input."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)

    @cached_property
    def description(self) -> Norm:
        """The norm's parameters, for kernels that compute the norm themselves."""
        return Norm(self.weight, self.eps, self.bias, centered=True)

    def weight_map(self) -> WeightMap:
        """Map the checkpoint tensors `weight` and, if there is one, `bias` to this norm's parameters."""
        return own_weights(self)
