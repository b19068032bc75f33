"""The compiled CPU kernels on shapes that no tile, pack or vector divides, and on long contexts."""

import pytest
import torch
from devices import generator, tolerance
from native_builds import COMPILER
from paged_cases import paged_case
from projections import projection_of

from roseinfer.kernels.activations import silu_and_mul, silu_and_mul_reference
from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.paged_decode import paged_decode_attention_reference
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention_reference
from roseinfer.kernels.attention.rope_append import rope_append_reference
from roseinfer.kernels.cpu.native_kernels import paged_decode_attention, paged_prefill_attention, rope_append
from roseinfer.kernels.linear.form_choice import Packing, choose_form
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.linear.weight_form import linear_reference
from roseinfer.kernels.norms import add_rms_norm, add_rms_norm_reference
from roseinfer.kernels.sampling.argmax import argmax, argmax_reference

BATCH = 65
"""One more than most limits: of a compiled decode step, of a pack of keys, and of rows per share of tiles."""
LONG = 32_768 + 77
"""A context past 32k that ends inside a block, a vector and a part of keys."""

pytestmark = [
    pytest.mark.usefixtures("single_threaded", "loaded"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@each_dtype
def test_a_batch_of_65_through_a_layer(dtype: torch.dtype) -> None:
    source = generator(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source).to(dtype)

    x, weight = random(BATCH, 48), random(48)
    ours, expected = add_rms_norm(x, x, weight, 1e-6), add_rms_norm_reference(x, x, weight, 1e-6)
    torch.testing.assert_close(ours, expected, **tolerance(dtype))
    wide = random(BATCH, 96)
    torch.testing.assert_close(silu_and_mul(wide), silu_and_mul_reference(wide), **tolerance(dtype))

    heads, head_dim = (5, 1), 96
    qkv, table, cache = random(BATCH, 7 * head_dim), random(50, head_dim), random(2, 6, 13, 1, head_dim)
    positions, slots = torch.randint(0, 50, (BATCH,), generator=source), torch.randperm(78, generator=source)[:BATCH]
    projection, other = projection_of(qkv, heads, positions=positions, table=table, norms=(None, None)), cache.clone()
    q = rope_append(projection, slots, *cache)
    torch.testing.assert_close(q, rope_append_reference(projection, slots, *other), **tolerance(dtype))
    torch.testing.assert_close(cache, other, **tolerance(dtype))

    lengths = [1 + 5 * row % 90 for row in range(BATCH)]
    case = paged_case(lengths, heads=5, kv_heads=1, head_dim=80, dtype=dtype, block_size=13)
    arguments = [each.cpu() for each in (case.q, case.key_cache, case.value_cache, case.block_tables)]
    lens = case.context_lens.cpu()
    torch.testing.assert_close(
        paged_decode_attention(*arguments, lens, scoring=Scoring(scale=0.1)),
        paged_decode_attention_reference(*arguments, lens, scoring=Scoring(scale=0.1)),
        **tolerance(dtype),
    )
    starts = torch.arange(BATCH + 1)  # one new token per request, as a chunk of a prompt
    torch.testing.assert_close(
        paged_prefill_attention(*arguments, starts, lens, scoring=Scoring(scale=0.1)),
        paged_prefill_attention_reference(*arguments, starts, lens, scoring=Scoring(scale=0.1), max_query_len=1),
        **tolerance(dtype),
    )


@each_dtype
@pytest.mark.parametrize("packing", ["none", "int8"])
@pytest.mark.parametrize("vocabulary", [17, 501, 3001])
def test_a_vocabulary_that_no_vector_divides(vocabulary: int, packing: Packing, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, 80).to(dtype)
    head = choose_form(weight, packing, vocabulary)
    assert isinstance(head, NativeWeight)
    for rows in (1, BATCH):
        hidden = torch.randn(rows, 80).to(dtype)
        logits = head.linear(hidden)
        assert logits.shape == (rows, vocabulary)
        exact = dtype == torch.float32
        torch.testing.assert_close(
            logits, linear_reference(hidden, head), atol=1e-4 if exact else 0.2, rtol=1e-4 if exact else 2**-6
        )
        assert argmax(logits).tolist() == argmax_reference(logits).tolist()
        logits[:, -1] = 1000.0
        assert argmax(logits).tolist() == [vocabulary - 1] * rows


@each_dtype
@pytest.mark.parametrize("window", [None, LONG - 3000])
def test_contexts_past_32k(window: int | None, dtype: torch.dtype) -> None:
    case = paged_case([LONG, 9], heads=3, kv_heads=1, head_dim=16, dtype=dtype, block_size=16, queries=8)
    # Keys and values that the window excludes would show, and so would those that a wrap at 2^15 repeats.
    case.value_cache[case.block_tables[0, :150].long()] += 50
    q, *caches = (each.cpu() for each in (case.q, case.key_cache, case.value_cache, case.block_tables))
    lens, options = case.context_lens.cpu(), {"scoring": Scoring(scale=1.0, window=window)}
    close = tolerance(dtype) if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(
        paged_decode_attention(q[:2], *caches, lens, **options),
        paged_decode_attention_reference(q[:2], *caches, lens, **options),
        **close,
    )
    starts = torch.tensor([0, 5, 8])
    torch.testing.assert_close(
        paged_prefill_attention(q, *caches, starts, lens, **options),
        paged_prefill_attention_reference(q, *caches, starts, lens, **options, max_query_len=5),
        **close,
    )
