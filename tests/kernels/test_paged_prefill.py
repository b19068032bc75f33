"""The prefill kernel computes causal attention for whole prompts, chunks and single tokens, in one batch."""

import math

import pytest
import torch
from devices import DEVICE, DTYPES, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_cases import paged_case, random_sinks

from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.dense_attention import dense_attention_reference
from roseinfer.kernels.attention.paged_decode import paged_decode_attention_reference
from roseinfer.kernels.attention.paged_prefill import (
    paged_prefill_attention,
    paged_prefill_attention_reference,
    paged_prefill_attention_triton,
)
from roseinfer.kernels.attention.prefill_kernel import EarlierKeys, PrefillTiles

pytestmark = pytest.mark.usefixtures("single_threaded")


def compare(
    requests: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    block_size: int = 16,
    scoring: Scoring = PLAIN_SCORING,
    tiles: PrefillTiles | None = None,
    seed: int = 0,
) -> None:
    """Compare the kernel with its reference. Requests are (cached tokens, new tokens)."""
    new = [count for _, count in requests]
    case = paged_case(
        [past + count for past, count in requests],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        block_size=block_size,
        queries=sum(new),
        seed=seed,
    )
    starts = torch.tensor([0, *torch.tensor(new).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, starts, case.context_lens)
    options = {"max_query_len": max(new) + 3, "scoring": scoring}
    ours = paged_prefill_attention_triton(*arguments, **options, tiles=tiles)
    torch.testing.assert_close(ours, paged_prefill_attention_reference(*arguments, **options), **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size_and_dtype(dtype: torch.dtype, head_dim: int) -> None:
    compare([(0, 37), (50, 5)], heads=4, kv_heads=2, head_dim=head_dim, dtype=dtype)


@given(
    requests=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=3),
    block_size=st.sampled_from([8, 16, 32]),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1), (10, 2), (16, 1)]),
    window=st.one_of(st.none(), st.integers(1, 70)),
    softcap=st.sampled_from([None, 0.5]),
    sinks=st.booleans(),
    rows=st.sampled_from([16, 32]),
    keys=st.sampled_from([16, 32]),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=40, deadline=None)
def test_chunks_windows_and_tiles_fall_anywhere(
    requests: list[tuple[int, int]],
    block_size: int,
    heads: tuple[int, int],
    window: int | None,
    softcap: float | None,
    sinks: bool,
    rows: int,
    keys: int,
    seed: int,
) -> None:
    compare(
        requests,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=16,
        dtype=torch.float32,
        block_size=block_size,
        scoring=Scoring(None, window, softcap, random_sinks(heads[0], seed, present=sinks)),
        tiles=PrefillTiles(rows, keys, 4, 2),
        seed=seed,
    )


@pytest.mark.parametrize("heads", [17, 32, 34], ids=lambda heads: f"{heads} heads of one key head")
def test_more_heads_share_a_key_head_than_one_program_takes(heads: int) -> None:
    compare([(3, 9)], heads=heads, kv_heads=1, head_dim=16, dtype=torch.float32)


def test_many_requests_some_without_new_tokens_find_their_tiles() -> None:
    compare([(index % 5 + 1, index % 4) for index in range(150)], heads=2, kv_heads=1, head_dim=16, dtype=torch.float32)


@pytest.mark.parametrize("window", [None, 7])
def test_a_single_new_token_is_decode(window: int | None) -> None:
    case = paged_case([1, 30, 17], heads=4, kv_heads=2, head_dim=16, dtype=torch.float64)
    starts, scoring = torch.arange(4, device=DEVICE), Scoring(window=window)
    cache = (case.key_cache, case.value_cache, case.block_tables)
    torch.testing.assert_close(
        paged_prefill_attention(case.q, *cache, starts, case.context_lens, max_query_len=1, scoring=scoring),
        paged_decode_attention_reference(case.q, *cache, case.context_lens, scoring=scoring),
    )


@pytest.mark.parametrize("before", [1, 8, 37])
def test_tokens_before_the_first_request_and_after_the_last_are_ignored(before: int) -> None:
    case = paged_case([19, 4], heads=2, kv_heads=2, head_dim=16, dtype=torch.float32, queries=before + 10 + 40)
    starts = torch.tensor([before, before + 8, before + 10], device=DEVICE)
    own = slice(before, before + 10)
    cache = (case.key_cache, case.value_cache, case.block_tables)
    alone = paged_prefill_attention_reference(case.q[own], *cache, starts - before, case.context_lens, max_query_len=8)
    for attend in (paged_prefill_attention_triton, paged_prefill_attention_reference):
        out = attend(case.q, *cache, starts, case.context_lens, max_query_len=8)
        torch.testing.assert_close(out[own], alone)


def test_what_the_cache_holds_past_the_end_is_never_read() -> None:
    case = paged_case([19], heads=2, kv_heads=2, head_dim=16, dtype=torch.float32, queries=19)
    case.key_cache[case.block_tables[0, 1], 3:] = math.nan
    case.value_cache[case.block_tables[0, 1], 3:] = math.nan
    starts = torch.tensor([0, 19], device=DEVICE)
    arguments = (case.q, case.key_cache, case.value_cache, case.block_tables, starts, case.context_lens)
    assert paged_prefill_attention_triton(*arguments, max_query_len=19).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_continues_from_that_to_the_first_keys(dtype: torch.dtype) -> None:
    lengths, new, first_keys = [150, 40, 137, 9], [20, 7, 9, 9], [128, 0, 128, 0]
    case = paged_case(lengths, heads=4, kv_heads=2, head_dim=16, dtype=dtype, queries=sum(new))
    starts = torch.tensor([0, *torch.tensor(new).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
    cache = (case.key_cache, case.value_cache, case.block_tables)
    whole = paged_prefill_attention_reference(case.q, *cache, starts, case.context_lens, max_query_len=20)
    out, lse = torch.full_like(case.q, 7.0), torch.zeros(4, sum(new), device=DEVICE)
    for request in (0, 2):
        rows = slice(int(starts[request]), int(starts[request + 1]))
        keys, values = (part[case.block_tables[request, :8]].flatten(0, 1) for part in cache[:2])
        out[rows], lse[:, rows] = dense_attention_reference(case.q[rows], keys, values)
    earlier = EarlierKeys(torch.tensor(first_keys, dtype=torch.int32, device=DEVICE), lse)
    for attend in (paged_prefill_attention_triton, paged_prefill_attention_reference):
        options = {"max_query_len": 20, "out": out.clone(), "earlier": earlier}
        found = attend(case.q, *cache, starts, case.context_lens, **options)
        torch.testing.assert_close(found, whole, **tolerance(dtype))
