"""Tests that compiled routing and experts agree with torch operations, in every build."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import COMPILER
from test_experts import random_routing

from roseinfer.kernels.cpu import native_experts
from roseinfer.kernels.experts.expert_weights import SeparateExperts, choose_experts
from roseinfer.kernels.experts.experts_mlp import experts_mlp, experts_mlp_loop
from roseinfer.kernels.experts.routing import route, route_reference
from roseinfer.kernels.linear.form_choice import Packing

pytestmark = [
    pytest.mark.usefixtures("loaded", "single_threaded"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]


@given(
    packing=st.sampled_from(["none", "int8", "int4"]),
    kind=st.sampled_from(["spread", "one", "some"]),
    tokens=st.integers(1, 20),
    num_experts=st.integers(4, 9),
    width=st.sampled_from([32, 64, 96]),
    activation=st.sampled_from(sorted(native_experts.ACTIVATIONS)),
    with_residual=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.sampled_from([1, 3]),
)
@settings(max_examples=40, deadline=None)
def test_the_sum_is_that_of_the_loop(
    packing: Packing,
    kind: str,
    tokens: int,
    num_experts: int,
    width: int,
    activation: str,
    with_residual: bool,
    dtype: torch.dtype,
    threads: int,
) -> None:
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    hidden = 64
    gate_up = choose_experts(random(num_experts * 2 * width, hidden) / 8, num_experts, packing, width)
    down = choose_experts(random(num_experts * hidden, width) / 8, num_experts, packing, hidden)
    assert isinstance(gate_up, SeparateExperts)
    assert gate_up.native_table is not None
    x, residual = random(tokens, hidden), random(tokens, hidden) if with_residual else None
    routing = random_routing(kind, tokens, num_experts, 3)
    torch.set_num_threads(threads)
    try:
        found = experts_mlp(x, routing, gate_up, down, activation, residual)
    finally:
        torch.set_num_threads(1)
    expected = experts_mlp_loop(x, routing, gate_up, down, activation)
    expected = expected if residual is None else expected + residual
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(found, expected, **close)


def test_one_expert_is_a_plain_mlp() -> None:
    generator = torch.Generator().manual_seed(0)
    gate_up = choose_experts(torch.randn(64, 64, generator=generator) / 8, 1, "none", 32)
    down = choose_experts(torch.randn(64, 32, generator=generator) / 8, 1, "none", 64)
    x, routing = torch.randn(3, 64, generator=generator), random_routing("one", 3, 1, 1)
    found = experts_mlp(x, routing, gate_up, down, "silu_and_mul")
    torch.testing.assert_close(found, experts_mlp_loop(x, routing, gate_up, down, "silu_and_mul"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("bias", [False, True])
def test_routing(dtype: torch.dtype, normalized: bool, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 48, generator=generator).to(dtype) for rows in (30, 11))
    weight[7] = weight[2]  # the lower of two experts with equal scores comes first
    offset = torch.randn(11, generator=generator).to(dtype) if bias else None
    assert native_experts.runs_route(x, weight, offset)
    found = route(x, weight, offset, 5, normalized=normalized)
    expected = route_reference(x, weight, offset, 5, normalized=normalized)
    assert torch.equal(found.experts, expected.experts)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-3, atol=1e-6)
