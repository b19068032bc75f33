"""The part of a step's attention that runs over contiguous keys and values."""

import torch
from torch import Tensor

from roseinfer.attention.step_layouts import DensePrompts, PromptLayout
from roseinfer.kernels.attention.attention_spec import AttentionSpec
from roseinfer.kernels.attention.dense_attention import dense_attention, dense_causal_attention
from roseinfer.kernels.attention.prefill_kernel import EarlierKeys


def takes_dense(spec: AttentionSpec) -> bool:
    """True if cuDNN computes attention of this kind: without a window, a bound of the scores and sinks."""
    return spec.window is None and spec.softcap is None and not spec.sinks


def attend_dense(
    qkv: Tensor, spec: AttentionSpec, cache: tuple[Tensor, Tensor], prompts: PromptLayout, dense: DensePrompts
) -> tuple[Tensor, EarlierKeys | None]:
    """Attend within the runs of a projection that is rotated in place, and from other tokens to those before them.

    `cache` holds the layer's keys and values, [num_blocks, block_size, kv_heads, head_dim] each. Returns
    [tokens, num_heads, head_dim], where other rows are undefined, and what the paged kernel needs to complete `pasts`.
    """
    heads = qkv.view(len(qkv), -1, spec.head_dim)
    last_key = spec.num_heads + spec.num_kv_heads
    queries, keys, values = heads[:, : spec.num_heads], heads[:, spec.num_heads : last_key], heads[:, last_key:]
    out: Tensor | None = None
    for first, count, length in dense.runs:
        rows = slice(first, first + count * length)
        query, key, value = (x[rows].view(count, length, *x.shape[1:]) for x in (queries, keys, values))
        attended = dense_causal_attention(query, key, value, spec.scale).flatten(0, 1)
        if len(attended) == len(qkv):
            return attended, None
        out = qkv.new_empty(queries.shape) if out is None else out
        out[rows] = attended
    out = qkv.new_empty(queries.shape) if out is None else out
    if dense.first_keys is None:
        return out, None
    lse = qkv.new_empty(spec.num_heads, len(qkv), dtype=torch.promote_types(qkv.dtype, torch.float32))
    for first, length, padded, num_keys, request in dense.pasts:
        rows, before = slice(first, first + length), slice(first - num_keys, first)
        query = queries[rows]
        if padded > length:
            query = query.new_empty(padded, *query.shape[1:])
            query[:length] = queries[rows]
        if request is None:
            past_keys, past_values = keys[before], values[before]
        else:
            blocks = prompts.block_tables[request, : num_keys // cache[0].shape[1]]
            past_keys, past_values = (part.index_select(0, blocks).flatten(0, 1) for part in cache)
        attended, sums = dense_attention(query, past_keys, past_values, spec.scale)
        out[rows], lse[:, rows] = attended[:length], sums[:, :length]
    return out, EarlierKeys(dense.first_keys, lse)
