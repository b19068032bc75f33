"""Attention of long prompts over contiguous keys and values, by cuDNN.

On Hopper, cuDNN's warp-specialized kernel (cf. FlashAttention-3, Shah et al., 2024, https://arxiv.org/abs/2407.08608)
is nearly twice as fast as `paged_prefill_attention` for long prompts. It needs contiguous keys and values, which a
prompt without cached tokens has: those that its own projection has just computed. A long chunk after cached tokens
attends to most of these by the same kernel, once they are copied out of their blocks, and to the rest by the paged
kernel, which continues from there.

cuDNN builds a plan for every new shape, in about 66 ms on an H200. Callers therefore round prompts down to a few
lengths (`dense_length`) and leave the rest of a prompt to the paged kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_LENGTH = 512
"""Minimum tokens per prompt. Shorter prompts share one launch of the paged kernel."""

LENGTH_UNIT = 128
"""Common divisor of all lengths with a plan of their own."""

_LEAST_PAIRS = 2048**2
"""Minimum prompts x tokens^2 per call. With fewer, the host needs longer for the call than the GPU saves."""

_LEAST_PAST_PAIRS = 4096**2
"""Minimum new tokens x cached tokens per call. The cached ones are copied out of their blocks first."""

_HEAD_DIMS = (64, 128)
"""Head sizes for which cuDNN was measured to be faster."""


def supports_dense(x: Tensor) -> bool:
    """True if cuDNN's kernel is faster for prompts with the device, dtype and head size of `x` [..., head_dim]."""
    if x.device.type != "cuda" or x.dtype not in (torch.bfloat16, torch.float16) or x.shape[-1] not in _HEAD_DIMS:
        return False
    has_cudnn: bool = torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
    return has_cudnn and torch.cuda.get_device_capability(x.device) == (9, 0)  # others are not measured


def dense_length(tokens: int) -> int:
    """Return the largest length with a plan of its own that is at most `tokens`, or 0 if there is none.

    Lengths are a quarter of a power of two apart below 2,048 tokens, an eighth below 4,096, and a sixteenth from there
    on: the longer the prompt, the more a plan of its own saves.
    """
    if tokens < LEAST_LENGTH:
        return 0
    return tokens // _unit(tokens) * _unit(tokens)


def dense_ceiling(tokens: int) -> int:
    """Return the smallest length with a plan of its own that is at least `tokens`."""
    length = dense_length(max(tokens, LEAST_LENGTH))
    return length if length >= tokens else dense_length(length + _unit(length))


def _unit(tokens: int) -> int:
    """Return the distance between lengths with plans of their own."""
    parts = 4 if tokens < 2048 else 8 if tokens < 4096 else 16
    return (1 << (tokens.bit_length() - 1)) // parts


def dense_count(prompts: int, length: int) -> int:
    """Return how many of `prompts` consecutive prompts of `length` tokens one call should compute; 0 if none.

    Above 4, the number is a power of two, because each number of prompts is a shape too.
    """
    count = prompts if prompts <= 4 else 1 << (prompts.bit_length() - 1)
    return count if count * length**2 >= _LEAST_PAIRS else 0


def dense_past_length(tokens: int, past: int) -> int:
    """Return how many of `past` cached tokens a call should compute for `tokens` new ones; 0 if none."""
    keys = dense_length(past)
    return keys if tokens >= LEAST_LENGTH and tokens * keys >= _LEAST_PAST_PAIRS else 0


def dense_causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attend from each token to itself and to the tokens before it in its prompt.

    q [prompts, tokens, heads, head_dim]; k and v [prompts, tokens, kv_heads, head_dim], with any strides except the
    last. `scale` defaults to head_dim ** -0.5. Returns [prompts, tokens, heads, head_dim], contiguous.
    """
    if not q.is_cuda:
        return dense_causal_attention_reference(q, k, v, scale)
    # torch's public function chooses among kernels by global switches; this is the one that it calls for cuDNN.
    attend: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    out: Tensor = attend(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None, False, 0.0, True, False, scale=scale
    )[0]
    return out.transpose(1, 2).contiguous()


def dense_causal_attention_reference(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Compute `dense_causal_attention` with torch operations, in float32 or float64, rounded once."""
    compute = torch.promote_types(q.dtype, torch.float32)
    query, key, value = (x.transpose(1, 2).to(compute) for x in (q, k, v))
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).contiguous().to(q.dtype)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Attend from every query to every key.

    q [tokens, heads, head_dim]; k and v [keys, kv_heads, head_dim]. Returns the attention [tokens, heads, head_dim],
    and the logarithm of the sum of exponentials of each query's scores, [heads, tokens], float32 or float64.
    """
    if not q.is_cuda:
        return dense_attention_reference(q, k, v, scale)
    attend: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    rows = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out, lse, *_ = attend(*rows, None, True, 0.0, False, False, scale=scale)
    return out[0].transpose(0, 1), lse.view(q.shape[1], q.shape[0])


def dense_attention_reference(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Compute `dense_attention` with torch operations, in float32 or float64, rounded once."""
    compute, sharing = torch.promote_types(q.dtype, torch.float32), q.shape[1] // k.shape[1]
    keys, values = (x.to(compute).repeat_interleave(sharing, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.to(compute), keys) * (q.shape[-1] ** -0.5 if scale is None else scale)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
    return out.to(q.dtype), scores.logsumexp(-1)
