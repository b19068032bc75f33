"""Whole prompts over contiguous keys and values: the same attention, and few shapes for which cuDNN builds a plan."""

import pytest
import torch
from devices import DEVICE, generator, tolerance

from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.dense_attention import (
    LEAST_LENGTH,
    dense_causal_attention,
    dense_ceiling,
    dense_count,
    dense_length,
    supports_dense,
)
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention_reference


def test_a_prompt_is_rounded_down_by_less_than_a_fifth_to_one_of_few_lengths() -> None:
    lengths = {dense_length(tokens) for tokens in range(16385)}
    assert len(lengths) == 50  # 66 ms each, once
    assert all(dense_length(length) == length for length in lengths)
    assert all(dense_length(tokens) == 0 for tokens in range(LEAST_LENGTH))
    assert all(dense_ceiling(length) == length for length in lengths if length)
    assert all(dense_length(dense_ceiling(tokens) - 1) < tokens <= dense_ceiling(tokens) for tokens in range(1, 16385))
    assert all(0.8 * tokens < dense_length(tokens) <= tokens for tokens in range(LEAST_LENGTH, 16385))


def test_prompts_are_computed_together_in_powers_of_two_that_are_worth_a_call() -> None:
    assert [dense_count(prompts, 4096) for prompts in range(9)] == [0, 1, 2, 3, 4, 4, 4, 4, 8]
    assert dense_count(1, 1024) == 0
    assert dense_count(16, 512) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contiguous_and_paged_attention_agree(dtype: torch.dtype) -> None:
    prompts, tokens, heads, kv_heads, head_dim = 2, 48, 4, 2, 16
    fused = torch.randn(prompts, tokens, heads + 2 * kv_heads, head_dim, generator=generator(0)).to(dtype).to(DEVICE)
    q, k, v = fused.split((heads, kv_heads, kv_heads), dim=2)
    blocks = torch.arange(prompts * tokens // 16, device=DEVICE).view(prompts, -1)
    starts = torch.arange(prompts + 1, device=DEVICE) * tokens
    lengths = torch.full((prompts,), tokens, device=DEVICE)
    cache = (x.reshape(-1, 16, kv_heads, head_dim) for x in (k, v))
    expected = paged_prefill_attention_reference(
        q.flatten(0, 1), *cache, blocks, starts, lengths, max_query_len=tokens, scoring=Scoring(scale=0.3)
    )
    if DEVICE.type == "cpu":
        out = dense_causal_attention(q, k, v, scale=0.3)
        torch.testing.assert_close(out.flatten(0, 1), expected)


def test_a_cpu_has_no_kernel_for_it() -> None:
    assert not supports_dense(torch.empty(1, 128, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 4096), (1, 16384), (4, 1024), (8, 512)])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(16, 8, 128), (32, 8, 64)])
def test_cudnn_agrees_with_the_paged_reference(
    prompts: int, tokens: int, heads: int, kv_heads: int, head_dim: int
) -> None:
    fused = torch.randn(prompts, tokens, heads + 2 * kv_heads, head_dim, dtype=torch.bfloat16, device="cuda")
    if not supports_dense(fused):
        pytest.skip("no kernel for this GPU")
    q, k, v = fused.split((heads, kv_heads, kv_heads), dim=2)
    out = dense_causal_attention(q, k, v)
    for prompt in range(prompts):
        # The last queries attend to the most keys; the whole matrix of scores would not fit.
        some = slice(tokens - 256, tokens)
        blocks = torch.arange(tokens // 16, device="cuda")[None]
        cache = (x[prompt].reshape(-1, 16, kv_heads, head_dim).float() for x in (k, v))
        starts, lengths = torch.tensor([0, 256], device="cuda"), torch.tensor([tokens], device="cuda")
        expected = paged_prefill_attention_reference(
            q[prompt, some].float(), *cache, blocks, starts, lengths, max_query_len=256
        )
        torch.testing.assert_close(out[prompt, some].float(), expected, **tolerance(torch.bfloat16))
