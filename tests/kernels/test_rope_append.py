"""Queries and keys are rotated, keys and values are stored in their slots, and nothing else is written."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import projection_of

from roseinfer.kernels.attention import rope_append as module
from roseinfer.kernels.attention.attention_spec import Rope
from roseinfer.kernels.attention.rope_append import rope_append_reference, rope_append_triton
from roseinfer.kernels.attention.torch_rotation import rotate, rotation_at
from roseinfer.models.rope import RotaryEmbedding

pytestmark = pytest.mark.usefixtures("single_threaded")


def compare(
    dtype: torch.dtype,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    with_table: bool = True,
    with_norms: bool = True,
    block_size: int = 8,
    seed: int = 0,
) -> None:
    source = generator(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype).to(DEVICE)

    num_blocks = -(-tokens // block_size) + 1
    qkv = random(tokens, (heads + 2 * kv_heads) * head_dim)
    table = random(50, head_dim) if with_table else None
    positions = torch.randint(0, 50, (tokens,), generator=source).to(DEVICE)
    slots = torch.randperm(num_blocks * block_size, generator=source)[:tokens].to(DEVICE)
    slots[0] = -1
    norms = (random(head_dim), random(head_dim)) if with_norms else (None, None)
    cache = random(2, num_blocks, block_size, kv_heads, head_dim)
    expected_cache = cache.clone()
    projection = projection_of(qkv, (heads, kv_heads), positions=positions, table=table, norms=norms)
    q = rope_append_triton(projection, slots, cache[0], cache[1])
    expected = rope_append_reference(projection, slots, expected_cache[0], expected_cache[1])
    torch.testing.assert_close(q, expected, **tolerance(dtype))
    torch.testing.assert_close(cache, expected_cache, **tolerance(dtype))
    for append in (rope_append_triton, rope_append_reference):
        cache.zero_()
        moved = projection._replace(qkv=qkv.clone())
        in_place = append(moved, slots, cache[0], cache[1], in_place=True)
        assert in_place.data_ptr() == moved.qkv.data_ptr()
        torch.testing.assert_close(in_place, expected, **tolerance(dtype))
        q, keys, values = moved.qkv.view(tokens, -1, head_dim).split((heads, kv_heads, kv_heads), dim=1)
        stored = cache.flatten(1, 2)[:, slots[1:]]
        torch.testing.assert_close(stored, torch.stack((keys[1:], values[1:])), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size_and_dtype(dtype: torch.dtype, head_dim: int) -> None:
    compare(dtype, 3, 4, 2, head_dim)


@given(
    tokens=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (3, 3), (4, 2), (6, 1)]),
    with_table=st.booleans(),
    with_norms=st.booleans(),
    many=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=25, deadline=None)
def test_shapes_and_parts(
    tokens: int, heads: tuple[int, int], with_table: bool, with_norms: bool, many: bool, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(module, "_FEW_PROGRAMS", 0)  # several heads per program
        compare(torch.float32, tokens, *heads, 12, with_table=with_table, with_norms=with_norms, seed=seed)


def test_the_rotation_equals_that_of_torch_operations() -> None:
    rope = RotaryEmbedding(Rope(theta=10000.0), 16, 40)
    positions = torch.tensor([0, 7, 39])
    qkv = torch.randn(3, 4 * 16, generator=generator(0))
    expected = rotate(qkv[:, :32].unflatten(-1, (2, 16)), rotation_at(rope.table, positions))
    projection = projection_of(qkv, (2, 1), positions=positions, table=rope.table)
    cache = torch.zeros(2, 1, 8, 1, 16)
    q = rope_append_reference(projection, torch.arange(3), cache[0], cache[1])
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(cache[1, 0, :3, 0], qkv[:, 48:])


def test_the_entry_computes_float64_too() -> None:
    cache = torch.zeros(2, 1, 4, 1, 2, dtype=torch.float64, device=DEVICE)
    qkv = torch.randn(1, 6, dtype=torch.float64, device=DEVICE)
    place = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    q = module.rope_append(projection_of(qkv, (1, 1), positions=place), place + 2, cache[0], cache[1])
    assert torch.equal(q.flatten(), qkv[0, :2])
    assert torch.equal(cache[0, 0, 2, 0], qkv[0, 2:4])


def test_the_entry_leaves_the_projection_as_it_is() -> None:
    cache = torch.zeros(2, 1, 4, 1, 4, device=DEVICE)
    qkv, table = torch.randn(2, 12, device=DEVICE), torch.randn(4, 4, device=DEVICE)
    before, places = qkv.clone(), torch.arange(2, device=DEVICE)
    q = module.rope_append(projection_of(qkv, (1, 1), positions=places, table=table), places, cache[0], cache[1])
    assert not torch.equal(q.flatten(1), before[:, :4])
    assert torch.equal(qkv, before)
