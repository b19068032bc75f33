"""Tests of routing and of the experts' products, against definitions in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from roseinfer.kernels.experts.expert_weights import StackedExperts, choose_experts
from roseinfer.kernels.experts.experts_mlp import experts_mlp, experts_mlp_all
from roseinfer.kernels.experts.routing import Routing, route

pytestmark = pytest.mark.usefixtures("single_threaded")

SIZE, WIDTH = 64, 32


def test_equal_scores_choose_the_lower_expert() -> None:
    weight = torch.zeros(6, 4)
    weight[4] = 1.0
    routing = route(torch.ones(3, 4), weight, None, 3, normalized=True)
    assert routing.experts.tolist() == [[4, 0, 1]] * 3


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_are_softmaxes_over_the_chosen_experts_or_over_all(normalized: bool, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, SIZE, generator=generator), torch.randn(9, SIZE, generator=generator)
    offset = torch.randn(9, generator=generator) * 4 if bias else None
    routing = route(x, weight, offset, 4, normalized=normalized)
    probabilities = torch.softmax(x.double() @ weight.double().t() + (0.0 if offset is None else offset.double()), 1)
    expected, experts = probabilities.topk(4)
    assert torch.equal(routing.experts.long(), experts)
    if normalized:
        expected = expected / expected.sum(1, keepdim=True)
    assert (routing.weights - expected).abs().max() < 1e-5


def random_routing(kind: str, tokens: int, num_experts: int, top_k: int) -> Routing:
    """Return a routing of one kind: "spread" over all experts, "one" for all rows, or "some" of the experts only."""
    generator = torch.Generator().manual_seed(tokens)
    if kind == "one":
        experts = torch.arange(top_k).repeat(tokens, 1)
    else:
        among = num_experts if kind == "spread" else top_k + 1
        scores = torch.rand(tokens, num_experts, generator=generator)
        scores[:, : num_experts - among] = -1.0
        experts = scores.topk(top_k).indices
    return Routing(experts.int(), torch.rand(tokens, top_k, generator=generator))


def expected_sum(x: Tensor, routing: Routing, gate_up: Tensor, down: Tensor) -> Tensor:
    """Compute the weighted sum token by token, in float64."""
    rows = []
    for token, experts, weights in zip(x.double(), routing.experts, routing.weights.double(), strict=True):
        row = torch.zeros(x.shape[1], dtype=torch.float64)
        for expert, weight in zip(experts.tolist(), weights, strict=True):
            gate, up = (gate_up[expert].double() @ token).chunk(2)
            row += weight * (down[expert].double() @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows) if rows else x.double()


def random_matrices(num_experts: int) -> tuple[Tensor, Tensor]:
    """Return matrices [experts, 2 * WIDTH, SIZE] and [experts, SIZE, WIDTH]."""
    generator = torch.Generator().manual_seed(1)
    gate_up = torch.randn(num_experts, 2 * WIDTH, SIZE, generator=generator) / SIZE**0.5
    return gate_up, torch.randn(num_experts, SIZE, WIDTH, generator=generator) / WIDTH**0.5


@pytest.mark.parametrize("kind", ["spread", "one", "some"])
@pytest.mark.parametrize("tokens", [0, 1, 3, 40])
@pytest.mark.parametrize("compute", [experts_mlp, experts_mlp_all])
def test_the_sum_is_that_of_the_definition(kind: str, tokens: int, compute: Callable[..., Tensor]) -> None:
    gate_up, down = random_matrices(7)
    x = torch.randn(tokens, SIZE, generator=torch.Generator().manual_seed(2))
    routing = random_routing(kind, tokens, 7, 3)
    stacked = (StackedExperts(matrices.flatten(0, 1), 7) for matrices in (gate_up, down))
    out = compute(x, routing, *stacked, "silu_and_mul")
    expected = expected_sum(x, routing, gate_up, down)
    assert out.shape == expected.shape
    assert (out - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("packing", "tolerance"), [("none", 1e-5), ("int8", 0.02), ("int4", 0.3)])
def test_experts_are_quantized_one_by_one(packing: str, tolerance: float) -> None:
    gate_up, down = random_matrices(5)
    scales = torch.tensor([1e-3, 1.0, 30.0, 1.0, 1e-2])[:, None, None]  # a shared scale would lose the small experts
    gate_up = gate_up * scales
    x = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(2))
    experts = torch.arange(5).repeat(2)[:6, None].int()
    forms = (choose_experts(matrices.flatten(0, 1), 5, packing, WIDTH) for matrices in (gate_up, down))
    routing = Routing(experts, torch.ones(6, 1))
    out, expected = experts_mlp(x, routing, *forms, "silu_and_mul"), expected_sum(x, routing, gate_up, down)
    assert ((out - expected).norm(dim=1) / expected.norm(dim=1)).max() < tolerance
