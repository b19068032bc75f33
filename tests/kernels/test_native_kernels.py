"""Tests that the compiled CPU kernels agree with their references in torch."""

import pytest
import torch
from devices import generator, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import COMPILER
from paged_cases import paged_case, random_sinks
from projections import projection_of

from roseinfer.kernels.activations import silu_and_mul, silu_and_mul_reference
from roseinfer.kernels.attention import paged_decode
from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.paged_decode import paged_decode_attention_reference
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention_reference
from roseinfer.kernels.attention.rope_append import rope_append_reference
from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.cpu.native_kernels import paged_decode_attention, paged_prefill_attention, rope_append
from roseinfer.kernels.norms import add_rms_norm, add_rms_norm_reference
from roseinfer.kernels.sampling.argmax import argmax, argmax_reference

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])

pytestmark = [
    pytest.mark.usefixtures("single_threaded", "loaded"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]


@given(
    rows=st.integers(1, 5),
    size=st.integers(1, 40).map(lambda count: 16 * count),
    residual=st.booleans(),
    dtype=DTYPES,
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=40, deadline=None)
def test_norms(rows: int, size: int, residual: bool, dtype: torch.dtype, seed: int) -> None:
    wide = torch.randn(2, rows, size + 8, generator=generator(seed)).to(dtype)
    x, added = wide[0, :, :size], wide[1, :, 8:] if residual else None  # rows are not adjacent
    weight = torch.randn(size, generator=generator(1)).to(dtype)
    assert native_kernels.runs_native(x, added, weight)
    for ours, expected in zip(
        add_rms_norm(x, added, weight, 1e-6), add_rms_norm_reference(x, added, weight, 1e-6), strict=True
    ):
        torch.testing.assert_close(ours, expected, **tolerance(dtype))


@given(rows=st.integers(1, 5), parts=st.integers(1, 40), dtype=DTYPES, seed=st.integers(0, 1 << 20))
@settings(max_examples=40, deadline=None)
def test_activations(rows: int, parts: int, dtype: torch.dtype, seed: int) -> None:
    x = (3 * torch.randn(rows, 32 * parts, generator=generator(seed))).to(dtype)
    x[0, :4] = torch.tensor([400.0, -400.0, 88.0, -88.0])  # a naive exponential could overflow
    torch.testing.assert_close(silu_and_mul(x), silu_and_mul_reference(x), **tolerance(dtype))


@given(
    tokens=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (3, 3), (4, 2), (6, 1)]),
    head_dim=st.sampled_from([32, 64, 96, 128]),
    with_table=st.booleans(),
    with_norms=st.booleans(),
    dtype=DTYPES,
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=40, deadline=None)
def test_rotation_and_append(
    tokens: int,
    heads: tuple[int, int],
    head_dim: int,
    with_table: bool,
    with_norms: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    source = generator(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype)

    qkv = random(tokens, (heads[0] + 2 * heads[1]) * head_dim)
    table = random(50, head_dim) if with_table else None
    positions = torch.randint(0, 50, (tokens,), generator=source)
    slots = torch.randperm(24, generator=source)[:tokens]
    slots[0] = -1
    norms = (random(head_dim), random(head_dim)) if with_norms else (None, None)
    cache = random(2, 3, 8, heads[1], head_dim)
    expected_cache = cache.clone()
    projection = projection_of(qkv, heads, positions=positions, table=table, norms=norms)
    q = rope_append(projection, slots, cache[0], cache[1])
    expected = rope_append_reference(projection, slots, expected_cache[0], expected_cache[1])
    torch.testing.assert_close(q, expected, **tolerance(dtype))
    torch.testing.assert_close(cache, expected_cache, **tolerance(dtype))


@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    block_size=st.sampled_from([1, 3, 16]),
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3), (7, 1), (10, 1)]),
    head_dim=st.sampled_from([16, 64, 80, 96, 128, 256]),
    window=st.one_of(st.none(), st.integers(1, 60)),
    scale=st.sampled_from([1.0, 300.0]),
    softcap=st.sampled_from([None, 1.5, 50.0]),
    sinks=st.booleans(),
    dtype=DTYPES,
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_paged_decode_attention(
    lengths: list[int],
    block_size: int,
    heads: tuple[int, int],
    head_dim: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    case = paged_case(
        lengths,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim,
        dtype=dtype,
        block_size=block_size,
        seed=seed,
    )
    arguments = (case.q.cpu(), case.key_cache.cpu(), case.value_cache.cpu(), case.block_tables.cpu())
    lens = case.context_lens.cpu()
    present = random_sinks(heads[0], seed, present=sinks)
    scoring = Scoring(scale * head_dim**-0.5, window, softcap, None if present is None else present.cpu())
    out = paged_decode_attention(*arguments, lens, scoring=scoring)
    expected = paged_decode_attention_reference(*arguments, lens, scoring=scoring)
    # With large scores, rounding of the scores dominates the error of the softmax.
    close = tolerance(dtype) if scale == 1.0 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(out, expected, **close)


@given(
    requests=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 100)), min_size=1, max_size=4),
    before=st.integers(0, 3),
    block_size=st.sampled_from([1, 3, 16]),
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3), (7, 1), (50, 1)]),
    head_dim=st.sampled_from([16, 64, 80, 96, 128, 256]),
    window=st.one_of(st.none(), st.integers(1, 90)),
    scale=st.sampled_from([1.0, 300.0]),
    softcap=st.sampled_from([None, 1.5, 50.0]),
    sinks=st.booleans(),
    dtype=DTYPES,
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_paged_prefill_attention(
    requests: list[tuple[int, int]],
    before: int,
    block_size: int,
    heads: tuple[int, int],
    head_dim: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """`requests`: (cached tokens, new tokens) per request. `before`: tokens in front of the first request's."""
    starts = [before]
    for _, new in requests:
        starts.append(starts[-1] + new)
    case = paged_case(
        [past + new for past, new in requests],
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim,
        dtype=dtype,
        block_size=block_size,
        queries=starts[-1] + 2,
        seed=seed,
    )
    arguments = (case.q.cpu(), case.key_cache.cpu(), case.value_cache.cpu(), case.block_tables.cpu())
    assert native_kernels.runs_attention(*arguments[:3])
    arguments = (*arguments, torch.tensor(starts), case.context_lens.cpu())
    present = random_sinks(heads[0], seed, present=sinks)
    sinks_on_cpu = None if present is None else present.cpu()
    options = {"scoring": Scoring(scale * head_dim**-0.5, window, softcap, sinks_on_cpu)}
    own = slice(before, starts[-1])
    close = tolerance(dtype) if scale == 1.0 else {"rtol": 0.05, "atol": 0.05}
    ours, expected = (
        paged_prefill_attention(*arguments, **options),
        paged_prefill_attention_reference(*arguments, **options, max_query_len=50),
    )
    torch.testing.assert_close(ours[own], expected[own], **close)


def test_keys_past_the_end_are_never_read() -> None:
    case = paged_case([70], heads=2, kv_heads=1, head_dim=64, dtype=torch.bfloat16, queries=7)
    q, keys, values, tables = (x.cpu() for x in (case.q, case.key_cache, case.value_cache, case.block_tables))
    for cache in (keys, values):
        kept = cache[tables[0, :5].long()].flatten(0, 1)[:70].clone()
        cache.fill_(torch.nan)
        cache[tables[0, :5].long()] = torch.cat((kept, cache.new_full((10, 1, 64), torch.nan))).view(5, 16, 1, 64)
    arguments = (q, keys, values, tables, torch.tensor([0, 7]), torch.tensor([70]))
    assert paged_prefill_attention(*arguments).isfinite().all()


@given(
    rows=st.integers(0, 5),
    size=st.integers(1, 70),
    distinct=st.integers(1, 40),
    dtype=DTYPES,
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_argmax(rows: int, size: int, distinct: int, dtype: torch.dtype, seed: int) -> None:
    wide = torch.randint(-distinct, distinct, (rows, size + 3), generator=generator(seed)).to(dtype)
    wide[wide == -1] = -torch.inf
    x = wide[:, :size]  # rows are not adjacent: larger values follow each of them
    wide[:, size:] = 100.0
    assert argmax(x).tolist() == argmax_reference(x).tolist()


def test_a_row_that_is_nowhere_a_number_has_an_argmax_in_it() -> None:
    assert argmax(torch.full((2, 20), torch.nan)).tolist() == [0, 0]


def test_caches_whose_slots_lie_apart_stay_with_torch() -> None:
    case = paged_case([5, 20], heads=4, kv_heads=2, head_dim=64, dtype=torch.float32, block_size=4, seed=0)
    arguments = [x.cpu() for x in (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)]
    expected = paged_decode_attention_reference(*arguments, scoring=Scoring(scale=0.125))
    assert native_kernels.runs_attention(*arguments[:3])
    for place in (1, 2):
        arguments[place] = arguments[place].transpose(1, 2).contiguous().transpose(1, 2)
    arguments[3], arguments[4] = arguments[3].t().contiguous().t(), torch.stack([arguments[4]] * 2, 1)[:, 0]
    assert not native_kernels.runs_attention(*arguments[:3])
    out = paged_decode.paged_decode_attention(*arguments, scoring=Scoring(scale=0.125))
    torch.testing.assert_close(out, expected, **tolerance(torch.float32))


def test_two_threads_share_what_is_large() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(40, 1024, generator=generator(0))
        torch.testing.assert_close(silu_and_mul(x), silu_and_mul_reference(x), **tolerance(torch.float32))
        weight = torch.randn(1024, generator=generator(1))
        ours, expected = add_rms_norm(x, x, weight, 1e-6), add_rms_norm_reference(x, x, weight, 1e-6)
        torch.testing.assert_close(ours, expected, **tolerance(torch.float32))
        assert argmax(x).tolist() == argmax_reference(x).tolist()
        case = paged_case([300, 7, 90], heads=6, kv_heads=2, head_dim=64, dtype=torch.float32, block_size=16, seed=2)
        arguments = [x.cpu() for x in (case.q, case.key_cache, case.value_cache, case.block_tables, case.context_lens)]
        torch.testing.assert_close(
            paged_decode_attention(*arguments, scoring=Scoring(scale=0.125)),
            paged_decode_attention_reference(*arguments, scoring=Scoring(scale=0.125)),
            **tolerance(torch.float32),
        )
    finally:
        torch.set_num_threads(before)


def test_other_dtypes_stay_with_torch() -> None:
    x = torch.randn(2, 32, dtype=torch.float64)
    assert not native_kernels.runs_native(x)
    torch.testing.assert_close(silu_and_mul(x), silu_and_mul_reference(x))
