"""The MLPs of the experts that a step's tokens chose, and their weighted sum."""

import torch
from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.experts.expert_weights import ExpertWeights
from roseinfer.kernels.experts.routing import Routing


def experts_mlp(
    x: Tensor, routing: Routing, gate_up: ExpertWeights, down: ExpertWeights, activation: Activation
) -> Tensor:
    """Return each token's weighted sum of down(activation(gate_up x)) over its experts, [tokens, size].

    x: [tokens, size]; matrices of gate_up: [2 * intermediate, size], gates first; of down: [size, intermediate].
    """
    return experts_mlp_loop(x, routing, gate_up, down, activation)


def experts_mlp_loop(
    x: Tensor, routing: Routing, gate_up: ExpertWeights, down: ExpertWeights, activation: Activation
) -> Tensor:
    """Compute `experts_mlp` expert by expert. The order of a token's sum is that of its experts, best first."""
    top_k = routing.experts.shape[1]
    chosen, pairs = torch.sort(routing.experts.flatten(), stable=True)
    outputs = x.new_empty(len(pairs), x.shape[1])
    experts, counts = torch.unique_consecutive(chosen, return_counts=True)
    for expert, own in zip(experts.tolist(), torch.split(pairs, counts.tolist()), strict=True):
        gated = gate_up.expert(expert).linear(x[own // top_k], None, activation)
        outputs[own] = down.expert(expert).linear(gated)
    return weighted_sum(outputs, routing.weights)


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return each token's sum of its experts' outputs [tokens * top_k, size] times weights [tokens, top_k]."""
    products = outputs.view(*weights.shape, outputs.shape[1]).to(weights.dtype) * weights[..., None]
    return products.sum(1).to(outputs.dtype)
