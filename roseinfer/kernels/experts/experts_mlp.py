"""The MLPs of the experts that a step's tokens chose, and their weighted sum.

On a GPU, plain matrices are multiplied by Triton kernels: token by token for a few tokens, else expert by expert. The
choice and the tiles depend on the number of tokens only, so that a CUDA graph can hold the launches. Everything else
runs expert by expert with the kernels of its weight form.
"""

import ctypes
from dataclasses import astuple, replace
from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.cpu import native_experts, native_kernels
from roseinfer.kernels.cpu.native_matmul import WeightKind, WeightStruct
from roseinfer.kernels.experts.expert_order import order_by_expert
from roseinfer.kernels.experts.expert_weights import ExpertWeights, SeparateExperts, StackedExperts
from roseinfer.kernels.experts.grouped_products import GroupTiles, grouped_down, grouped_gate_up, sum_pairs
from roseinfer.kernels.experts.routing import Routing
from roseinfer.kernels.experts.token_products import TokenTiles, token_down, token_gate_up
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.runtime import next_power_of_two, runs_triton, shared_memory
from roseinfer.kernels.tuning import Choice, tuned

Tiles = tuple[TokenTiles, TokenTiles] | tuple[GroupTiles, GroupTiles]
"""Tiles of the two products: of tokens one by one, or of groups of rows."""


class Biases(NamedTuple):
    """Biases of all experts; None: none."""

    gate_up: Tensor | None
    """[experts, 2 * intermediate]."""
    down: Tensor | None
    """[experts, size]."""


NO_BIASES = Biases(None, None)

_FEW_TOKENS = 4
"""Maximum tokens that are multiplied one by one where no choice was measured."""
_MAX_NATIVE_TOKENS = 64
"""Maximum tokens of a compiled call. Those of more run expert by expert, on tiles if there are some."""
_MAX_COUNTED = 4096
"""Tokens from which the choice stays the same."""


def experts_mlp(
    x: Tensor,
    routing: Routing,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    activation: Activation,
    residual: Tensor | None = None,
    *,
    biases: Biases = NO_BIASES,
) -> Tensor:
    """Return each token's weighted sum of down(activation(gate_up x)) over its experts, plus the residual.

    x, residual and the result: [tokens, size]; matrices of gate_up: [2 * intermediate, size], gates first; of down:
    [size, intermediate].
    """
    if not len(x):
        return x if residual is None else residual
    if isinstance(gate_up, StackedExperts) and isinstance(down, StackedExperts) and _fits(x, gate_up, down):
        tiles = choose_tiles(x, routing, gate_up)
        return experts_mlp_triton(x, routing, gate_up, down, activation, residual, biases=biases, tiles=tiles)
    takes_tokens = len(x) <= _MAX_NATIVE_TOKENS and biases == NO_BIASES and native_kernels.runs_native(x)
    tables = native_tables(x.dtype, gate_up, down, activation) if takes_tokens else None
    if tables is not None:
        return native_experts.experts_mlp(x, *routing, *tables, activation, residual)
    one_by_one = experts_mlp_loop if x.device.type == "cpu" else experts_mlp_all
    out = one_by_one(x, routing, gate_up, down, activation, biases=biases)
    return out if residual is None else out + residual


def experts_mlp_triton(
    x: Tensor,
    routing: Routing,
    gate_up: StackedExperts,
    down: StackedExperts,
    activation: Activation,
    residual: Tensor | None = None,
    *,
    biases: Biases = NO_BIASES,
    tiles: Tiles,
) -> Tensor:
    """Compute `experts_mlp` in Triton kernels. Sums are float32 and have a fixed order.

    Tokens one by one round once per product. Groups of rows also round each expert's weighted output.
    """
    first, second = tiles
    if isinstance(first, TokenTiles) and isinstance(second, TokenTiles):
        active = token_gate_up(x, routing, gate_up.stacked, biases.gate_up, activation, first)
        return token_down(active, routing, down.stacked, biases.down, residual, second)
    assert isinstance(first, GroupTiles)
    assert isinstance(second, GroupTiles)
    order = order_by_expert(routing.experts, len(gate_up.stacked))
    top_k = routing.experts.shape[1]
    active = grouped_gate_up(x, order, top_k, gate_up.stacked, biases.gate_up, activation, first)
    outputs = grouped_down(active, order, routing.weights, down.stacked, biases.down, second)
    return sum_pairs(outputs, len(x), residual)


def choose_tiles(x: Tensor, routing: Routing, gate_up: StackedExperts) -> Tiles:
    """Return the measured tiles for this number of tokens, or defaults."""
    choice = tuned(x.device).get(experts_key(x, routing, gate_up))
    if choice:
        return as_tiles(choice)
    return default_tiles(len(x), routing.experts.shape[1], gate_up)


def default_tiles(tokens: int, top_k: int, gate_up: StackedExperts) -> Tiles:
    """Return tiles that suit most shapes, as measured on an H200.

    Few rows per expert are padded to 16, many to 128.
    """
    if tokens <= _FEW_TOKENS:
        return TokenTiles(2, 1024, 4), TokenTiles(2, 256, 2)
    part = gate_up.weight.itemsize // 2  # tiles of float32 have half as many columns
    mean = tokens * top_k / len(gate_up.stacked)
    if mean <= 48:
        rows = 16 if mean <= 12 else 32
        tiles = GroupTiles(rows, 64, 128 // part, 16, 4, 3), GroupTiles(rows, 64, 64 // part, 16, 4, 5)
    else:
        tiles = GroupTiles(128, 128, 64 // part, 16, 8, 4), GroupTiles(128, 256, 64 // part, 8, 8, 3)
    most, itemsize = shared_memory(gate_up.weight.device), gate_up.weight.itemsize
    return _fitted(tiles[0], 2, itemsize, most), _fitted(tiles[1], 1, itemsize, most)


def _fitted(tiles: GroupTiles, matrices: int, itemsize: int, most: int) -> GroupTiles:
    """Return tiles with as many stages as `most` bytes of shared memory hold, for 1 or 2 matrices of weights."""
    stage = (tiles.rows + matrices * tiles.outputs) * tiles.columns * itemsize
    return replace(tiles, num_stages=max(1, min(tiles.num_stages, most // stage)))


def experts_key(x: Tensor, routing: Routing, gate_up: StackedExperts) -> str:
    """Return the key of the tuned choice for this number of tokens, for `tuning.tuned`."""
    counted = min(next_power_of_two(len(x)), _MAX_COUNTED)
    experts, outputs, size = gate_up.stacked.shape
    dtype = str(x.dtype).removeprefix("torch.")
    return f"experts {dtype} {counted}x{routing.experts.shape[1]}of{experts}x{outputs}x{size}"


def as_choice(tiles: Tiles) -> Choice:
    """Return tiles as `tuning.remember` stores them."""
    return (*astuple(tiles[0]), *astuple(tiles[1]))


def as_tiles(choice: Choice) -> Tiles:
    """Return the tiles that `as_choice` wrote: of tokens one by one, if there are few numbers."""
    half = len(choice) // 2
    if half == len(TokenTiles.__dataclass_fields__):
        return TokenTiles(*choice[:half]), TokenTiles(*choice[half:])
    return GroupTiles(*choice[:half]), GroupTiles(*choice[half:])


def experts_mlp_loop(
    x: Tensor,
    routing: Routing,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    activation: Activation,
    *,
    biases: Biases = NO_BIASES,
) -> Tensor:
    """Compute `experts_mlp` expert by expert. The order of a token's sum is that of its experts, best first."""
    top_k = routing.experts.shape[1]
    chosen, pairs = torch.sort(routing.experts.flatten(), stable=True)
    outputs = x.new_empty(len(pairs), x.shape[1])
    experts, counts = torch.unique_consecutive(chosen, return_counts=True)
    for expert, own in zip(experts.tolist(), torch.split(pairs, counts.tolist()), strict=True):
        outputs[own] = _output(x[own // top_k], expert, gate_up, down, activation, biases)
    return weighted_sum(outputs, routing.weights)


def _output(
    x: Tensor, expert: int, gate_up: ExpertWeights, down: ExpertWeights, activation: Activation, biases: Biases
) -> Tensor:
    """Return what one expert makes of all rows of x, [rows, size]."""
    first = None if biases.gate_up is None else biases.gate_up[expert]
    second = None if biases.down is None else biases.down[expert]
    return down.expert(expert).linear(gate_up.expert(expert).linear(x, first, activation), second)


def experts_mlp_all(
    x: Tensor,
    routing: Routing,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    activation: Activation,
    *,
    biases: Biases = NO_BIASES,
) -> Tensor:
    """Compute `experts_mlp` with every expert for every token, and drop what was not chosen.

    A GPU needs this for dtypes without Triton kernels, such as float64: it does not wait for the device, so that a CUDA
    graph can hold it.
    """
    outputs = x.new_zeros(*routing.experts.shape, x.shape[1])
    for expert in range(gate_up.num_experts):
        out = _output(x, expert, gate_up, down, activation, biases)
        outputs = torch.where((routing.experts == expert)[..., None], out[:, None], outputs)
    return weighted_sum(outputs.flatten(0, 1), routing.weights)


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return each token's sum of its experts' outputs [tokens * top_k, size] times weights [tokens, top_k]."""
    products = outputs.view(*weights.shape, outputs.shape[1]).to(weights.dtype) * weights[..., None]
    return products.sum(1).to(outputs.dtype)


def native_tables(
    dtype: torch.dtype, gate_up: ExpertWeights, down: ExpertWeights, activation: Activation
) -> "tuple[ctypes.Array[WeightStruct], ctypes.Array[WeightStruct]] | None":
    """Return both tables for the compiled kernels, or None if these do not take the weights."""
    if activation not in native_experts.ACTIVATIONS:
        return None
    if not isinstance(gate_up, SeparateExperts) or not isinstance(down, SeparateExperts):
        return None
    first, second = gate_up.native_table, down.native_table
    if first is None or second is None:
        return None
    for form in (gate_up.expert(0), down.expert(0)):
        if isinstance(form, NativeWeight) and form.kind is WeightKind.PLAIN and form.data.dtype != dtype:
            return None
    width, hidden = second[0].size, second[0].outputs
    fits = width % first[0].lanes == 0 and hidden % native_kernels.LANES == 0
    return (first, second) if fits else None


def _fits(x: Tensor, gate_up: StackedExperts, down: StackedExperts) -> bool:
    weights = (gate_up.stacked, down.stacked)
    return x.dim() == 2 and runs_triton(x, *weights) and all(weight.dtype == x.dtype for weight in weights)
