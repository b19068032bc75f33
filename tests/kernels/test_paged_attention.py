"""The decode kernel agrees with its reference, for any lengths, heads, windows and splits."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_cases import PagedCase, paged_case, random_sinks
from projections import projection_of
from torch import Tensor

from roseinfer.kernels.attention.append_and_attend import (
    append_and_attend,
    append_and_attend_reference,
    append_and_attend_triton,
)
from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.decode_kernel import DecodeOutput
from roseinfer.kernels.attention.decode_tiles import DecodeTiles
from roseinfer.kernels.attention.paged_decode import (
    paged_decode_attention,
    paged_decode_attention_reference,
    paged_decode_attention_triton,
)
from roseinfer.kernels.attention.split_results import splits_at_once

pytestmark = pytest.mark.usefixtures("single_threaded")


def check(case: PagedCase, scoring: Scoring = PLAIN_SCORING, tiles: DecodeTiles | None = None) -> None:
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    order = order_of(case)
    out = paged_decode_attention_triton(*arguments, order=order, scoring=scoring, tiles=tiles)
    expected = paged_decode_attention_reference(*arguments, scoring=scoring)
    torch.testing.assert_close(out, expected, **tolerance(case.q.dtype))


def check_append(
    case: PagedCase, scoring: Scoring = PLAIN_SCORING, tiles: DecodeTiles | None = None, *, table: bool, norms: str
) -> None:
    """Compare `append_and_attend` on rows that are not adjacent: same result, same cache."""
    requests, heads, head_dim = case.q.shape
    kv_heads = case.key_cache.shape[2]
    source = generator(requests)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source).to(case.q.dtype).to(DEVICE)

    size = (heads + 2 * kv_heads) * head_dim
    qkv = random(requests, size + 24)[:, :size]
    rotation = random(256, head_dim) if table else None
    weights = tuple(random(head_dim) if name in norms else None for name in ("q", "k"))
    options = {"table": rotation, "norms": weights, "eps": 0.1, "scoring": scoring}
    projection = projection_of(qkv, (heads, kv_heads), **options)
    caches = [(case.key_cache.clone(), case.value_cache.clone()) for _ in range(2)]
    out, expected = (
        function(projection, *cache, case.block_tables, case.context_lens, **more)
        for function, cache, more in (
            (append_and_attend_triton, caches[0], {"order": order_of(case), "tiles": tiles}),
            (append_and_attend_reference, caches[1], {}),
        )
    )
    torch.testing.assert_close(out, expected, **tolerance(case.q.dtype))
    for found, wanted in zip(*caches, strict=True):
        torch.testing.assert_close(found, wanted, **tolerance(case.q.dtype))


def order_of(case: PagedCase) -> Tensor:
    return case.context_lens.argsort(descending=True).to(torch.int32)


def tiles(num_splits: int, *, tile: int = 16, ordered: bool = False) -> DecodeTiles:
    return DecodeTiles(tile, num_splits, num_warps=4, num_stages=2, ordered=ordered)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_every_head_size_and_dtype(dtype: torch.dtype, head_dim: int, heads: int, kv_heads: int) -> None:
    case = paged_case([1, 70, 200], heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    check(case)
    check_append(case, table=True, norms="qk")


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=3),
    block_size=st.sampled_from([8, 16, 32]),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1), (10, 2)]),
    window=st.one_of(st.none(), st.integers(1, 60)),
    softcap=st.sampled_from([None, 0.5]),
    sinks=st.booleans(),
    num_splits=st.integers(1, 7),
    table=st.booleans(),
    norms=st.sampled_from(["", "q", "k", "qk"]),
    ordered=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=25, deadline=None)
def test_lengths_windows_and_splits_fall_anywhere(
    lengths: list[int],
    block_size: int,
    heads: tuple[int, int],
    window: int | None,
    softcap: float | None,
    sinks: bool,
    num_splits: int,
    table: bool,
    norms: str,
    ordered: bool,
    seed: int,
) -> None:
    case = paged_case(
        lengths,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=16,
        dtype=torch.float32,
        block_size=block_size,
        index_dtype=torch.int64,
        seed=seed,
    )
    scoring = Scoring(0.3, window, softcap, random_sinks(heads[0], seed, present=sinks))
    check(case, scoring, tiles(num_splits, ordered=ordered))
    check_append(case, scoring, tiles(num_splits, ordered=ordered), table=table, norms=norms)


def test_splits_that_do_not_fit_into_registers_are_joined_in_rounds() -> None:
    case = paged_case([100, 40], heads=6, kv_heads=1, head_dim=128, dtype=torch.float32)
    assert splits_at_once(8, 128, num_warps=1) == 2
    check(case, tiles=DecodeTiles(tile=16, num_splits=7, num_warps=1, num_stages=2))


@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_padding_row_of_length_0_gives_zeros(num_splits: int, heads: int) -> None:
    case = paged_case([40, 0], heads=heads, kv_heads=1, head_dim=32, dtype=torch.float16)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    out = paged_decode_attention_triton(*arguments, tiles=tiles(num_splits))
    assert out[0].abs().sum() > 0
    assert not out[1].any()
    assert not paged_decode_attention_reference(*arguments)[1].any()


@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_padding_row_of_length_0_stores_nothing(num_splits: int, heads: int) -> None:
    case = paged_case([40, 0], heads=heads, kv_heads=1, head_dim=32, dtype=torch.float16)
    check_append(case, tiles=tiles(num_splits), table=True, norms="")
    qkv = torch.ones((2, (heads + 2) * 32), dtype=torch.float16, device=DEVICE)
    before = case.key_cache.clone()
    lengths = torch.zeros_like(case.context_lens)
    arguments = (case.key_cache, case.value_cache, case.block_tables, lengths)
    assert not append_and_attend_triton(projection_of(qkv, (heads, 1)), *arguments, tiles=tiles(num_splits)).any()
    assert torch.equal(case.key_cache, before)


@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("beside", [False, True])
def test_results_are_written_to_the_output_and_rows_of_length_0_stay(num_splits: int, heads: int, beside: bool) -> None:
    case = paged_case([40, 0, 3, 0], heads=heads, kv_heads=1, head_dim=32, dtype=torch.float16)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    alone = paged_decode_attention_reference(*arguments)
    for attend in (
        paged_decode_attention,
        paged_decode_attention_reference,
        partial(paged_decode_attention_triton, tiles=tiles(num_splits)),
    ):
        whole = torch.full((6, heads, 32), 7.0, dtype=torch.float16, device=DEVICE)
        out = attend(*arguments, output=DecodeOutput(whole[1:5], beside))
        assert out.data_ptr() == whole[1:].data_ptr()
        torch.testing.assert_close(whole[[1, 3]], alone[[0, 2]], **tolerance(torch.float16))
        assert (whole[[0, 2, 4, 5]] == 7).all()


def test_an_appended_token_is_never_read_from_the_cache() -> None:
    case = paged_case([19, 1], heads=2, kv_heads=2, head_dim=16, dtype=torch.float32)
    for request, slot in ((0, 18), (1, 0)):
        case.key_cache[case.block_tables[request, slot // 16], slot % 16] = math.nan
        case.value_cache[case.block_tables[request, slot // 16], slot % 16] = math.nan
    check_append(case, tiles=tiles(1), table=True, norms="qk")


def test_splits_can_be_launched_again_and_again() -> None:
    case = paged_case([75, 33], heads=2, kv_heads=1, head_dim=16, dtype=torch.float32)
    for _ in range(3):
        check(case, tiles=tiles(4))


def test_slots_past_the_end_are_never_read() -> None:
    case = paged_case([19], heads=2, kv_heads=2, head_dim=16, dtype=torch.float32)
    last = case.block_tables[0, 1]
    case.key_cache[last, 3:] = math.nan
    case.value_cache[last, 3:] = math.nan
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    assert paged_decode_attention_triton(*arguments).isfinite().all()
    assert paged_decode_attention_reference(*arguments).isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    case = paged_case([50], heads=4, kv_heads=2, head_dim=32, dtype=torch.float32)
    check(replace(case, q=case.q * 1000), tiles=tiles(3))


def test_scores_are_scaled_as_told() -> None:
    check(paged_case([50, 7], heads=4, kv_heads=2, head_dim=32, dtype=torch.float32), Scoring(scale=0.7))


def test_the_entry_computes_float64_too() -> None:
    case = paged_case([5, 40], heads=4, kv_heads=2, head_dim=8, dtype=torch.float64)
    out = paged_decode_attention(case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    blocks = case.block_tables[1, :3].long()
    keys, values = (x[blocks].flatten(0, 1)[:40, 0] for x in (case.key_cache, case.value_cache))
    weights = (keys @ case.q[1, 0] / math.sqrt(8)).softmax(0)
    torch.testing.assert_close(out[1, 0], weights @ values)
    assert out.device.type == DEVICE.type
    qkv = torch.randn(2, 8 * 8, dtype=torch.float64, device=DEVICE)
    arguments = (case.key_cache, case.value_cache, case.block_tables, case.context_lens)
    out = append_and_attend(projection_of(qkv, (4, 2)), *arguments)
    again = paged_decode_attention(qkv[:, :32].view(2, 4, 8), *arguments)
    torch.testing.assert_close(out, again)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(16, 8, 128), (32, 8, 64)])
def test_a_gpu_splits_long_contexts(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    case = paged_case([20000, 70, 9001], heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, spare_blocks=0)
    check(replace(case, block_tables=case.block_tables.clamp(min=0)))
