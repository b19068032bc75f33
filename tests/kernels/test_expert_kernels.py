"""Tests that the Triton kernels of experts agree with torch operations, on routings of every kind."""

import pytest
import torch
from devices import DEVICE, DTYPES, tolerance
from test_experts import random_routing

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.experts.expert_order import order_by_expert_reference, order_by_expert_triton
from roseinfer.kernels.experts.expert_weights import StackedExperts
from roseinfer.kernels.experts.experts_mlp import (
    NO_BIASES,
    Biases,
    Tiles,
    as_choice,
    as_tiles,
    choose_tiles,
    default_tiles,
    experts_key,
    experts_mlp_loop,
    experts_mlp_triton,
)
from roseinfer.kernels.experts.grouped_products import GroupTiles, grouped_down, grouped_gate_up
from roseinfer.kernels.experts.route_kernel import route_triton
from roseinfer.kernels.experts.route_row import route_row, takes_row
from roseinfer.kernels.experts.routing import Routing, route_reference
from roseinfer.kernels.experts.token_products import TokenTiles
from roseinfer.kernels.norms import Norm, add_rms_norm_reference
from roseinfer.kernels.tuning import tuned

pytestmark = pytest.mark.usefixtures("single_threaded")

ONE_BY_ONE: Tiles = TokenTiles(32, 64, 2), TokenTiles(64, 32, 2)
IN_GROUPS: Tiles = GroupTiles(16, 32, 32, 2, 4, 2), GroupTiles(16, 64, 32, 2, 4, 2)
IN_LARGE_GROUPS: Tiles = GroupTiles(64, 64, 64, 3, 4, 2), GroupTiles(128, 64, 64, 2, 4, 2)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(("tokens", "num_experts", "top_k", "size"), [(1, 8, 2, 64), (19, 7, 7, 300), (33, 60, 4, 96)])
def test_routing(tokens: int, num_experts: int, top_k: int, size: int, normalized: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x, weight = (torch.randn(rows, size, generator=generator).to(DEVICE) for rows in (tokens, num_experts))
    weight[num_experts // 2] = weight[0]  # the lower of two experts with equal scores comes first
    bias = torch.randn(num_experts, generator=generator).to(DEVICE) if tokens == 19 else None
    experts, weights = route_triton(x, weight, bias, top_k, normalized=normalized)
    expected = route_reference(x, weight, bias, top_k, normalized=normalized)
    assert torch.equal(experts, expected.experts)
    torch.testing.assert_close(weights, expected.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_experts", "top_k", "size"), [(8, 2, 64), (7, 7, 300), (60, 4, 96)])
def test_routing_of_one_row_with_its_norm(num_experts: int, top_k: int, size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)

    x, weight, norm = random(1, size), random(num_experts, size), Norm(random(size), 1e-3)
    weight[num_experts // 2] = weight[0]
    for residual, bias in ((None, None), (random(1, size), random(num_experts))):
        assert takes_row(1, size, num_experts, norm)
        normed, total, experts, weights = route_row(x, residual, norm, weight, bias, top_k, normalized=bias is None)
        expected, sums = add_rms_norm_reference(x, residual, norm.weight, norm.eps)
        torch.testing.assert_close(normed, expected, **tolerance(dtype))
        assert torch.equal(total, sums)
        routing = route_reference(normed, weight, bias, top_k, normalized=bias is None)
        assert torch.equal(experts, routing.experts)
        torch.testing.assert_close(weights, routing.weights, rtol=1e-3, atol=1e-6)


def test_scores_of_a_token_do_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 200, generator=generator).to(DEVICE) for rows in (40, 12))
    experts, weights = route_triton(x, weight, None, 3, normalized=True)
    for token in (0, 17, 39):
        alone = route_triton(x[token : token + 1], weight, None, 3, normalized=True)
        assert torch.equal(alone[0][0], experts[token])
        # NumPy, in the interpreter, multiplies one row in another order than many.
        torch.testing.assert_close(alone[1][0], weights[token], rtol=0.0 if DEVICE.type == "cuda" else 1e-4, atol=0.0)


@pytest.mark.parametrize("kind", ["spread", "one", "some"])
@pytest.mark.parametrize(("tokens", "num_experts"), [(1, 9), (70, 9), (4096, 5)])
def test_pairs_are_sorted_by_expert_and_by_token(kind: str, tokens: int, num_experts: int) -> None:
    experts = random_routing(kind, tokens, num_experts, 2).experts.to(DEVICE)
    found, expected = order_by_expert_triton(experts, num_experts), order_by_expert_reference(experts, num_experts)
    assert torch.equal(found.pairs, expected.pairs)
    assert torch.equal(found.starts, expected.starts)


def compare(
    routing: Routing, tiles: Tiles, *, size: int, width: int, dtype: torch.dtype = torch.float32, biased: bool = False
) -> None:
    """Compare kernels and loop, with a residual and rows that are not adjacent.

    `biased`: with the biases and the activation of gpt-oss.
    """
    generator = torch.Generator().manual_seed(size)
    tokens, num_experts = len(routing.experts), 6

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)

    x, residual = random(tokens, size + 16)[:, :size], random(tokens, size)
    gate_up = StackedExperts(random(num_experts * 2 * width, size) * size**-0.5, num_experts)
    down = StackedExperts(random(num_experts * size, width) * width**-0.5, num_experts)
    routing = Routing(routing.experts.to(DEVICE), routing.weights.to(DEVICE))
    activation: Activation = "clamped_swiglu_and_mul" if biased else "silu_and_mul"
    biases = Biases(random(num_experts, 2 * width) * 4, random(num_experts, size)) if biased else NO_BIASES
    found = experts_mlp_triton(x, routing, gate_up, down, activation, residual, biases=biases, tiles=tiles)
    wide = [StackedExperts(each.weight.float(), num_experts) for each in (gate_up, down)]
    exact = Biases(*(None if bias is None else bias.float() for bias in biases))
    expected = experts_mlp_loop(x.float(), routing, wide[0], wide[1], activation, biases=exact) + residual.float()
    torch.testing.assert_close(found.float(), expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["spread", "one", "some"])
def test_few_tokens(kind: str, dtype: torch.dtype) -> None:
    compare(random_routing(kind, 1, 6, 3), ONE_BY_ONE, size=96, width=40, dtype=dtype)
    compare(random_routing(kind, 3, 6, 2), ONE_BY_ONE, size=64, width=32, dtype=dtype, biased=dtype == torch.float32)
    compare(random_routing(kind, 5, 6, 3), IN_GROUPS, size=96, width=40, dtype=dtype)


@pytest.mark.parametrize("tiles", [IN_GROUPS, IN_LARGE_GROUPS], ids=["groups", "large groups"])
@pytest.mark.parametrize("kind", ["spread", "one", "some"])
def test_many_tokens(kind: str, tiles: Tiles) -> None:
    compare(random_routing(kind, 70, 6, 2), tiles, size=64, width=64, biased=kind == "some")


def test_rows_shorter_than_a_tile() -> None:
    compare(random_routing("spread", 5, 6, 2), IN_GROUPS, size=24, width=16)


def test_4096_tokens() -> None:
    """The products alone: the sum has a program per token, which takes the interpreter a minute."""
    generator = torch.Generator().manual_seed(0)
    routing = random_routing("spread", 4096, 6, 2)
    x = torch.randn(4096, 32, generator=generator)
    gate_up = StackedExperts(torch.randn(6 * 64, 32, generator=generator) / 6, 6)
    down = StackedExperts(torch.randn(6 * 32, 32, generator=generator) / 6, 6)
    expected = experts_mlp_loop(x, routing, gate_up, down, "silu_and_mul")
    routing = Routing(routing.experts.to(DEVICE), routing.weights.to(DEVICE))
    x, up, last = (each.to(DEVICE) for each in (x, gate_up.stacked, down.stacked))
    order, tiles = order_by_expert_triton(routing.experts, 6), GroupTiles(256, 32, 32, 4, 4, 2)
    active = grouped_gate_up(x, order, 2, up, None, "silu_and_mul", tiles)
    outputs = grouped_down(active, order, routing.weights, last, None, tiles)
    torch.testing.assert_close(outputs.view(4096, 2, 32).sum(1).cpu(), expected, **tolerance(torch.float32))


def test_the_tiles_depend_on_the_number_of_tokens_and_on_what_was_measured() -> None:
    stacked = StackedExperts(torch.zeros(8 * 64, 32, dtype=torch.bfloat16), 8)
    for tokens in (1, 4, 5, 64, 100, 4096):
        x, routing = torch.zeros(tokens, 32, dtype=torch.bfloat16), random_routing("one", tokens, 8, 2)
        tiles = choose_tiles(x, routing, stacked)
        assert tiles == default_tiles(tokens, 2, stacked)
        assert isinstance(tiles[0], TokenTiles) == (tokens <= 4)
        assert as_tiles(as_choice(tiles)) == tiles
    known = tuned(x.device)
    key = experts_key(x[:60], Routing(routing.experts[:60], routing.weights[:60]), stacked)
    known[key] = as_choice(IN_GROUPS)
    try:
        for tokens, expected in ((33, IN_GROUPS), (64, IN_GROUPS), (65, default_tiles(65, 2, stacked))):
            few = Routing(routing.experts[:tokens], routing.weights[:tokens])
            assert choose_tiles(x[:tokens], few, stacked) == expected
    finally:
        del known[key]
