"""Compiled routing and experts' MLPs of a decode step (cpp/experts.h)."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.cpu.native_library import INTEGER, POINTER, call
from roseinfer.kernels.cpu.native_matmul import WeightStruct

ACTIVATIONS: dict[str, int] = {"silu_and_mul": 0, "gelu_tanh_and_mul": 1, "gelu_and_mul": 2}
"""Numbers of the gated activations that the kernels have, by our names: `Activation` in cpp/elementwise.h."""


class ExpertsStruct(ctypes.Structure):
    """The experts of one layer: `Experts` in cpp/experts.h."""

    _fields_ = (
        ("gate_up", POINTER),
        ("down", POINTER),
        ("count", INTEGER),
        ("hidden", INTEGER),
        ("width", INTEGER),
        ("top_k", INTEGER),
        ("activation", INTEGER),
    )


class RouterStruct(ctypes.Structure):
    """How a layer's tokens choose among its experts: `Router` in cpp/experts.h."""

    _fields_ = (("weight", POINTER), ("bias", POINTER), ("normalized", INTEGER))


def weight_table(weights: Sequence[WeightStruct]) -> ctypes.Array[WeightStruct]:
    """Return the experts' weights as an array for the kernels, which is valid as long as the weights live."""
    return (WeightStruct * len(weights))(*weights)


def experts_struct(
    gate_up: ctypes.Array[WeightStruct], down: ctypes.Array[WeightStruct], top_k: int, activation: str
) -> ExpertsStruct:
    """Describe a layer's experts to the kernels. Valid as long as both tables live."""
    first = down[0]
    return ExpertsStruct(
        ctypes.addressof(gate_up),
        ctypes.addressof(down),
        len(down),
        first.outputs,
        first.size,
        top_k,
        ACTIVATIONS[activation],
    )


def router_struct(weight: Tensor, bias: Tensor | None, *, normalized: bool) -> RouterStruct:
    """Describe a layer's router to the kernels. Valid as long as its tensors live."""
    return RouterStruct(weight.data_ptr(), None if bias is None else bias.data_ptr(), int(normalized))


def experts_mlp(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    gate_up: ctypes.Array[WeightStruct],
    down: ctypes.Array[WeightStruct],
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """Return the weighted sum of each token's experts plus the residual, as `experts_mlp.experts_mlp` describes it.

    experts and weights: [tokens, top_k].
    """
    out = torch.zeros_like(x) if residual is None else residual.clone(memory_format=torch.contiguous_format)
    layer = experts_struct(gate_up, down, experts.shape[1], activation)
    arguments = x.contiguous(), experts.to(torch.int32).contiguous(), weights.float().contiguous(), out
    call("experts_mlp", x.dtype, ctypes.byref(layer), *(each.data_ptr() for each in arguments), len(x))
    return out


def runs_route(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """True if `route` takes these tensors."""
    fits = x.dim() == 2 and len(x) > 0 and x.shape[1] % native_kernels.LANES == 0 and weight.is_contiguous()
    return fits and native_kernels.runs_native(x, weight, bias)


def route(x: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, *, normalized: bool) -> tuple[Tensor, Tensor]:
    """Return the experts [tokens, top_k] in int32, and their weights in float32, as `routing.route` describes them."""
    tokens, size = x.shape
    x = x.contiguous()
    experts = torch.empty((tokens, top_k), dtype=torch.int32)
    weights = torch.empty((tokens, top_k), dtype=torch.float32)
    router = router_struct(weight, bias, normalized=normalized)
    results = experts.data_ptr(), weights.data_ptr()
    call("route", x.dtype, ctypes.byref(router), x.data_ptr(), *results, tokens, len(weight), size, top_k)
    return experts, weights
