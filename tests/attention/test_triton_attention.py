"""The Triton backend agrees with the reference backend, for any mixture of requests."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import fused, projection_of
from torch import Tensor

from roseinfer.attention import dense_layouts
from roseinfer.attention.dense_layouts import dense_runs
from roseinfer.attention.gather_attention import GatherAttention
from roseinfer.attention.kernel_layouts import padded_tables
from roseinfer.attention.registry import attention_backend
from roseinfer.attention.step_layouts import DecodeLayout, DensePast, DenseRun, StepLayout
from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention import append_and_attend, decode_kernel, dense_attention, paged_decode, paged_prefill
from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.rope_append import rope_append_reference

pytestmark = pytest.mark.usefixtures("single_threaded")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.float64: 1e-12}

launches: Counter[str] = Counter()


def counted(name: str, launch: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    launches[name] += 1
    return launch(*arguments, **options)


@pytest.fixture(autouse=True, scope="module")
def kernels_in_the_interpreter() -> Iterator[None]:
    """Launch the kernels without a GPU too, in Triton's interpreter, and count the launches."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (decode_kernel, paged_prefill):
            patch.setattr(
                module, "runs_triton", lambda *tensors: all(x is None or x.dtype != torch.float64 for x in tensors)
            )
        for module, name in (
            (paged_decode, "paged_decode_attention"),
            (append_and_attend, "append_and_attend"),
            (paged_prefill, "paged_prefill_attention"),
        ):
            patch.setattr(module, f"{name}_triton", partial(counted, name, getattr(module, f"{name}_triton")))
        yield


def cache_of(num_blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype, seed: int) -> KVCache:
    cache = KVCache(
        num_layers=2,
        num_blocks=num_blocks,
        block_size=block_size,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=DEVICE,
    )
    cache.data.copy_(torch.randn(cache.data.shape, generator=torch.Generator().manual_seed(seed)))
    return cache


def layout_of(requests: list[tuple[int, int]], num_blocks: int, block_size: int, seed: int) -> StepLayout:
    """Return the layout of requests given as (cached tokens, new tokens), in random blocks."""
    numbers = iter(torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed)).tolist())
    tables = [[next(numbers) for _ in range(-(-(past + new) // block_size))] for past, new in requests]
    slots = [
        table[at // block_size] * block_size + at % block_size
        for table, (past, new) in zip(tables, requests, strict=True)
        for at in range(past, past + new)
    ]
    return StepLayout(
        query_lens=[new for _, new in requests],
        context_lens=[past for past, _ in requests],
        block_tables=tables,
        slots=torch.tensor(slots, device=DEVICE),
    )


def compare(
    requests: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int = 16,
    block_size: int = 16,
    scoring: Scoring = PLAIN_SCORING,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    dense: bool = False,
) -> Counter[str]:
    """Compare both backends on the same step and cache. Return the launches per kernel."""
    num_blocks = sum(-(-(past + new) // block_size) for past, new in requests) + 1
    layout = layout_of(requests, num_blocks, block_size, seed)
    ours, reference = TritonAttention(dense=dense), GatherAttention()
    cache, expected_cache = (cache_of(num_blocks, block_size, kv_heads, head_dim, dtype, seed) for _ in range(2))
    step, expected_step = ours.prepare(layout, cache), reference.prepare(layout, expected_cache)
    tokens, before = sum(layout.query_lens), launches.copy()
    source = torch.Generator().manual_seed(seed + 1)
    for layer in range(2):
        q, k, v = (
            torch.randn(tokens, count, head_dim, generator=source).to(dtype).to(DEVICE)
            for count in (heads, kv_heads, kv_heads)
        )
        projection = fused(q, k, v, scoring=scoring, index=layer)
        out = ours.attend(projection, step)
        expected = reference.attend(projection, expected_step)
        torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(cache.data, expected_cache.data, rtol=0, atol=0)
    return launches - before


@pytest.mark.parametrize("scoring", [PLAIN_SCORING, Scoring(0.3, window=5, softcap=0.5)], ids=str)
@pytest.mark.parametrize("requests", [[(20, 1), (3, 1)], [(20, 1), (0, 7)], [(9, 4)]], ids=str)
def test_a_projection_is_normalized_and_rotated(requests: list[tuple[int, int]], scoring: Scoring) -> None:
    heads, kv_heads, head_dim, eps = 4, 2, 16, 0.1
    layout = layout_of(requests, num_blocks=6, block_size=16, seed=0)
    ours, reference = TritonAttention(), GatherAttention()
    cache, expected_cache = (cache_of(6, 16, kv_heads, head_dim, torch.float32, seed=0) for _ in range(2))
    tokens, source = sum(layout.query_lens), torch.Generator().manual_seed(1)
    qkv, table, q_norm, k_norm = (
        torch.randn(*shape, generator=source).to(DEVICE)
        for shape in ((tokens, (heads + 2 * kv_heads) * head_dim), (64, head_dim), (head_dim,), (head_dim,))
    )
    positions = torch.tensor([past + new for past, count in requests for new in range(count)], device=DEVICE)
    options = {"positions": positions, "table": table, "norms": (q_norm, k_norm), "eps": eps}
    projection = projection_of(qkv, (heads, kv_heads), **options, scoring=scoring, index=1)
    out = ours.attend(projection, ours.prepare(layout, cache))

    apart = torch.empty(2, 1, tokens, kv_heads, head_dim, device=DEVICE)  # one block with a slot per token of the step
    places = torch.arange(tokens, device=DEVICE)
    q = rope_append_reference(projection, places, apart[0], apart[1])
    new = fused(q, apart[0, 0], apart[1, 0], scoring=scoring, index=1)
    expected = reference.attend(new, reference.prepare(layout, expected_cache))
    torch.testing.assert_close(out, expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(cache.data, expected_cache.data, rtol=2e-5, atol=2e-5)


@given(
    requests=st.lists(st.tuples(st.integers(0, 60), st.one_of(st.just(1), st.integers(1, 30))), min_size=1, max_size=5),
    ordered=st.booleans(),
    heads=st.sampled_from([(2, 2), (4, 2), (6, 1)]),
    block_size=st.sampled_from([4, 16]),
    window=st.one_of(st.none(), st.integers(1, 40)),
    softcap=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=12, deadline=None)
def test_any_mixture_of_decodes_chunks_and_prompts(
    requests: list[tuple[int, int]],
    ordered: bool,
    heads: tuple[int, int],
    block_size: int,
    window: int | None,
    softcap: float | None,
    seed: int,
) -> None:
    if ordered:
        requests = sorted(requests, key=lambda request: request[1] > 1)
    scoring = Scoring(window=window, softcap=softcap)
    compare(requests, heads=heads[0], kv_heads=heads[1], block_size=block_size, scoring=scoring, seed=seed)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mixed_step_takes_both_kernels_at_every_head_size(head_dim: int, dtype: torch.dtype) -> None:
    used = compare([(20, 1), (33, 1), (16, 9), (0, 21)], heads=4, kv_heads=2, head_dim=head_dim, dtype=dtype)
    assert used == {"paged_decode_attention": 2, "paged_prefill_attention": 2}


@pytest.mark.parametrize(
    ("requests", "kernels"),
    [
        ([(20, 1), (0, 1)], {"append_and_attend": 2}),
        ([(20, 2), (0, 7)], {"paged_prefill_attention": 2}),
        ([(20, 2), (9, 1)], {"paged_prefill_attention": 2}),
    ],
    ids=["decodes", "prefills", "a decode behind a prefill"],
)
def test_a_step_of_one_kind_takes_one_kernel(requests: list[tuple[int, int]], kernels: dict[str, int]) -> None:
    assert compare(requests, heads=2, kv_heads=1) == kernels


def test_decodes_whose_layout_is_on_the_device_need_no_preparation() -> None:
    requests = [(20, 1), (5, 1), (40, 1)]
    layout = layout_of(requests, num_blocks=8, block_size=16, seed=0)
    cache = cache_of(8, 16, 2, 16, torch.float32, seed=0)
    q, k, v = torch.randn(3, 3, 2, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    on_device = DecodeLayout(
        cache,
        torch.from_numpy(padded_tables(layout.block_tables)).to(DEVICE),
        torch.tensor([past + 1 for past, _ in requests], dtype=torch.int32, device=DEVICE),
    )
    assert torch.equal(on_device.slots, layout.slots)
    backend = TritonAttention()
    torch.testing.assert_close(
        backend.attend(fused(q, k, v, index=1), on_device),
        backend.attend(fused(q, k, v, index=1), backend.prepare(layout, cache)),
    )


def test_what_the_kernels_cannot_read_goes_to_their_references() -> None:
    used = compare([(20, 1), (16, 9)], heads=4, kv_heads=2, dtype=torch.float64)
    used += compare([(20, 1), (16, 9)], heads=4, kv_heads=2, block_size=12)
    assert not used


def test_tables_are_as_wide_as_the_longest_and_few_widths_occur() -> None:
    tables = [[3, 1, 2], [], list(range(17))]
    padded = padded_tables(tables)
    assert padded.shape == (3, 32)
    for row, table in zip(padded.tolist(), tables, strict=True):
        assert row == table + [0] * (32 - len(table))
    assert padded_tables([]).shape == (0, 16)
    assert {padded_tables([[0] * count]).shape[1] for count in range(100)} == {16, 32, 64, 128}


def test_where_kernels_cannot_run_paged_attention_uses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roseinfer.attention.triton_attention.runs_triton", lambda x: x.dtype == torch.float32)

    def chosen(block_size: int = 16, head_dim: int = 16, dtype: torch.dtype = torch.float32) -> type:
        return type(attention_backend("paged", cache_of(2, block_size, 1, head_dim, dtype, seed=0)))

    assert chosen() is TritonAttention
    assert chosen(block_size=12) is TorchAttention
    assert chosen(head_dim=264) is TorchAttention
    assert chosen(dtype=torch.float64) is TorchAttention
    cache = cache_of(2, 16, 1, 16, torch.float32, seed=0)
    assert isinstance(attention_backend("gather", cache), GatherAttention)


@pytest.fixture(scope="module")
def short_prompts_count_as_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_attention, "LEAST_LENGTH", 4)
        patch.setattr(dense_attention, "_LEAST_PAIRS", 16)
        patch.setattr(dense_attention, "_LEAST_PAST_PAIRS", 64)
        patch.setattr(dense_attention, "dense_length", lambda past: past // 32 * 32)  # whole tiles of keys
        patch.setattr(dense_layouts, "dense_length", lambda tokens: tokens // 32 * 32 or tokens // 4 * 4)
        patch.setattr(dense_layouts, "dense_ceiling", lambda tokens: -(-tokens // 32) * 32)
        patch.setattr(dense_layouts, "_LEAST_LEADING", 32)
        yield


@pytest.mark.usefixtures("short_prompts_count_as_long")
@given(
    requests=st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 20, 40, 70]), st.sampled_from([1, 2, 8, 8, 8, 9, 12, 27, 39])),
        min_size=1,
        max_size=6,
    ),
    scoring=st.sampled_from([PLAIN_SCORING, PLAIN_SCORING, Scoring(window=6), Scoring(softcap=0.5)]),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=20, deadline=None)
def test_long_prompts_run_over_contiguous_keys(requests: list[tuple[int, int]], scoring: Scoring, seed: int) -> None:
    requests = sorted(requests, key=lambda request: request[1] != 1)  # decodes come first
    compare(requests, heads=4, kv_heads=2, scoring=scoring, seed=seed, dense=True)


@pytest.mark.usefixtures("short_prompts_count_as_long")
@pytest.mark.parametrize("requests", [[(64, 8)], [(3, 1), (0, 9), (70, 13), (33, 2), (40, 4), (0, 37)]], ids=str)
def test_chunks_attend_to_most_cached_tokens_over_contiguous_keys(requests: list[tuple[int, int]]) -> None:
    layout = layout_of(requests, 20, 16, 0)
    parts = dense_layouts.dense_parts(layout, sum(new == 1 for _, new in requests), 16)
    assert parts is not None
    expected = [DensePast(0, 8, 32, 64, 0)]
    if len(requests) > 1:
        expected = [DensePast(10, 13, 32, 64, 1), DensePast(25, 4, 32, 32, 3), DensePast(61, 5, 32, 32, None)]
    assert list(parts.pasts) == expected
    compare(requests, heads=4, kv_heads=2, dense=True)


@pytest.mark.usefixtures("short_prompts_count_as_long")
def test_prompts_of_one_length_leave_nothing_to_the_paged_kernel() -> None:
    assert compare([(0, 8)] * 4, heads=4, kv_heads=2, dense=True)["paged_prefill_attention"] == 0
    layout = layout_of([(3, 1), (0, 8), (0, 8), (0, 8), (16, 8), (0, 9)], 12, 16, 0)
    runs = dense_runs(layout.query_lens, layout.context_lens, 1)
    assert runs == (DenseRun(1, 3, 8), DenseRun(33, 1, 8))


@pytest.mark.parametrize("requests", [[(20, 1), (3, 1), (0, 7), (5, 9)], [(0, 30)], [(0, 8), (0, 8)]], ids=str)
@pytest.mark.parametrize("scoring", [PLAIN_SCORING, Scoring(window=5, softcap=0.5)], ids=str)
def test_the_last_layer_attends_from_the_last_tokens_alone(requests: list[tuple[int, int]], scoring: Scoring) -> None:
    heads, kv_heads, head_dim = 4, 2, 16
    layout = layout_of(requests, num_blocks=9, block_size=16, seed=0)
    cache, expected_cache = (cache_of(9, 16, kv_heads, head_dim, torch.float32, seed=0) for _ in range(2))
    lengths, last = layout.query_lens, [0, len(requests) - 1]
    rows = [sum(lengths[: at + 1]) - 1 for at in last]
    tokens, source = sum(lengths), torch.Generator().manual_seed(1)
    qkv, table, q_norm, k_norm = (
        torch.randn(*shape, generator=source).to(DEVICE)
        for shape in ((tokens, (heads + 2 * kv_heads) * head_dim), (64, head_dim), (head_dim,), (head_dim,))
    )
    positions = torch.tensor([past + new for past, count in requests for new in range(count)], device=DEVICE)
    shared = {"table": table, "scoring": scoring, "index": 1}
    whole = projection_of(qkv, (heads, kv_heads), positions=positions, norms=(q_norm, k_norm), **shared)
    stored = projection_of(
        qkv[:, heads * head_dim :], (0, kv_heads), positions=positions, norms=(None, k_norm), **shared
    )
    backend = TritonAttention()
    expected = backend.attend(whole, backend.prepare(layout, expected_cache))[rows]
    step = backend.prepare(replace(layout, last=last), cache)
    assert backend.has_last(step)
    out = backend.attend_last(stored, whole._replace(qkv=qkv[rows], positions=positions[rows]), step)
    torch.testing.assert_close(out, expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(cache.data, expected_cache.data, rtol=2e-5, atol=2e-5)
