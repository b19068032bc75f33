"""Tests that kernels and the torch sampler compute the same uniform numbers."""

import pytest
import torch
from devices import DEVICE, generator

from roseinfer.kernels.runtime import tl, triton
from roseinfer.kernels.sampling.uniform_kernel import uniform
from roseinfer.sampling import uniform as sampling

pytestmark = pytest.mark.usefixtures("single_threaded")


@triton.jit
def _numbers_kernel(seeds, positions, out, COUNT: tl.constexpr):  # noqa: N803
    row = tl.arange(0, COUNT)
    tl.store(out + row, uniform(tl.load(seeds + row), tl.load(positions + row)))


def test_the_numbers_are_the_samplers() -> None:
    ends = [0, 1, -1, 2**63 - 1, -(2**63)]
    seeds = torch.randint(-(2**63), 2**63 - 1, (64,), generator=generator(0))
    positions = torch.randint(0, 2**40, (64,), generator=generator(1))
    seeds[:5], positions[:5] = torch.tensor(ends), torch.tensor(ends).flip(0)
    seeds, positions = seeds.to(DEVICE), positions.to(DEVICE)
    out = torch.empty(64, dtype=torch.float32, device=DEVICE)
    _numbers_kernel[(1,)](seeds, positions, out, COUNT=64)
    torch.testing.assert_close(out, sampling.uniform(seeds, positions).float(), rtol=0, atol=0)
