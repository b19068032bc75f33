"""Routing: the choice of experts per token by a router's scores."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.cpu import native_experts
from roseinfer.kernels.experts.route_kernel import MAX_ROUTED_EXPERTS, route_triton
from roseinfer.kernels.experts.route_row import route_row, takes_row
from roseinfer.kernels.linear.weight_form import NormBefore
from roseinfer.kernels.runtime import runs_triton


class Routing(NamedTuple):
    """Experts of each token, best first. Of equal scores, the lower expert is first."""

    experts: Tensor
    """Indexes of experts, [tokens, top_k], int32."""
    weights: Tensor
    """Weights of the experts' outputs, [tokens, top_k], float32 or float64."""


def route(x: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, *, normalized: bool) -> Routing:
    """Return the experts of each token of x [tokens, size] by the scores x W^T + b, with W [experts, size].

    Scores and weights are computed in float32, for float64 in float64. A weight is the softmax over all experts or, if
    `normalized`, over the chosen ones.
    """
    if runs_triton(x, weight, bias) and x.dtype == weight.dtype and len(weight) <= MAX_ROUTED_EXPERTS:
        return Routing(*route_triton(x, weight, bias, top_k, normalized=normalized))
    if native_experts.runs_route(x, weight, bias):
        return Routing(*native_experts.route(x, weight, bias, top_k, normalized=normalized))
    return route_reference(x, weight, bias, top_k, normalized=normalized)


def route_after_norm(
    norm: NormBefore,
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    top_k: int,
    *,
    normalized: bool,
) -> tuple[Tensor, Tensor, Routing]:
    """Return (norm(hidden + residual), hidden + residual, routing of the first), with one kernel for one row on a GPU.

    If residual is None, the sum is hidden.
    """
    parts = norm.description
    if (
        runs_triton(hidden, residual, weight, bias)
        and hidden.dtype == weight.dtype
        and takes_row(len(hidden), hidden.shape[1], len(weight), parts)
    ):
        normed, total, *routing = route_row(hidden, residual, parts, weight, bias, top_k, normalized=normalized)
        return normed, total, Routing(*routing)
    normed, total = norm.after(hidden, residual)
    return normed, total, route(normed, weight, bias, top_k, normalized=normalized)


def route_reference(x: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, *, normalized: bool) -> Routing:
    """Compute `route` with torch operations."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    scores = F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    # A stable sort puts the lower expert first among equal scores; topk promises no order.
    ordered, experts = torch.sort(scores, dim=-1, descending=True, stable=True)
    best = ordered[:, :top_k]
    weights = torch.softmax(best, -1) if normalized else torch.exp(best - torch.logsumexp(scores, -1, keepdim=True))
    return Routing(experts[:, :top_k].to(torch.int32), weights)
