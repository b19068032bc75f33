"""The compiled CPU kernels as functions on tensors: the same operations that a GPU runs in Triton.

Between its matrix products, a decode step is hundreds of operations on a few kilobytes each, and torch takes longer to
dispatch such an operation than to run it. Here, each fused kernel is one call, and paged attention reads keys and
values in place. Callers must first check that the kernels are loaded and take the tensors, with `runs_native` and the
other predicates.
"""

import ctypes

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.cpu.native_library import DTYPES, FLOAT, INTEGER, POINTER, call, functions

LANES = 16
"""Elements per vector. Row sizes must be multiples of this number."""
_MAX_HEAD_DIM = 256


class ScoringStruct(ctypes.Structure):
    """The `Scoring` of a layer with its defaults filled in: `Scoring` in cpp/attention.h."""

    _fields_ = (("window", INTEGER), ("scale", FLOAT), ("softcap", FLOAT), ("sinks", POINTER))


def scoring_struct(scoring: Scoring, head_dim: int) -> ScoringStruct:
    """Describe the scoring of a layer to the kernels. The sinks must outlive the struct."""
    sinks = None if scoring.sinks is None else scoring.sinks.data_ptr()
    return ScoringStruct(scoring.window or 0, scoring.scale_for(head_dim), scoring.softcap or 0.0, sinks)


def runs_native(*tensors: Tensor | None) -> bool:
    """True if the kernels are loaded and take these tensors: on the CPU, of one supported dtype, contiguous in the last
    dimension.
    """
    if not functions:
        return False
    dtype = None
    for x in tensors:
        if x is None:
            continue
        dtype = dtype or x.dtype
        if x.dtype is not dtype or not x.is_cpu or x.stride(-1) != 1:
            return False
    return dtype in DTYPES


def has_adjacent_slots(*caches: Tensor) -> bool:
    """True if consecutive slots of caches [num_blocks, block_size, kv_heads, head_dim] are adjacent in memory."""
    return all(cache.is_contiguous() for cache in caches)


def supports_head_dim(head_dim: int) -> bool:
    """True if the attention kernels support this head size."""
    return head_dim % LANES == 0 and head_dim <= _MAX_HEAD_DIM


def runs_attention(q: Tensor, key_cache: Tensor, value_cache: Tensor) -> bool:
    """True if the attention kernels are loaded and take these queries [..., head_dim] and caches."""
    caches = key_cache, value_cache
    return runs_native(q, *caches) and has_adjacent_slots(*caches) and supports_head_dim(q.shape[-1])


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute `norms.add_rms_norm`. The row size must be a multiple of 16."""
    rows, size = x.shape
    out = x.new_empty((rows, size))
    total = x if residual is None else x.new_empty((rows, size))
    call(
        "add_rms_norm",
        x.dtype,
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        None if residual is None else total.data_ptr(),
        out.data_ptr(),
        rows,
        size,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        eps,
    )
    return out, total


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Compute `activations.silu_and_mul`. The row size must be a multiple of 32."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((rows, size))
    call("silu_and_mul", gate_up.dtype, gate_up.data_ptr(), out.data_ptr(), rows, size, gate_up.stride(0))
    return out


def rope_append(projection: Projection, slots: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
    """Compute `rope_append.rope_append`. `head_dim` must be a multiple of 32, and slots must be adjacent in memory."""
    qkv, positions, layer = projection
    spec, table, q_norm, k_norm = layer.spec, layer.table, layer.q_norm, layer.k_norm
    tokens, positions, slots = len(qkv), positions.to(torch.int64).contiguous(), slots.to(torch.int64).contiguous()
    q = qkv.new_empty((tokens, spec.num_heads, spec.head_dim))
    call(
        "rope_append",
        qkv.dtype,
        qkv.data_ptr(),
        None if table is None else table.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        None if q_norm is None else q_norm.data_ptr(),
        None if k_norm is None else k_norm.data_ptr(),
        q.data_ptr(),
        tokens,
        spec.num_heads,
        spec.num_kv_heads,
        spec.head_dim,
        qkv.stride(0),
        key_cache.stride(1),
        layer.eps,
    )
    return q


def paged_decode_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scoring: Scoring = PLAIN_SCORING,
    out: Tensor | None = None,
) -> Tensor:
    """Compute `paged_decode.paged_decode_attention`, for tensors that `runs_attention` accepts.

    If `out` is given, which must be contiguous, the result is written to it.
    """
    requests, heads, head_dim = q.shape
    q, block_tables = q.contiguous(), block_tables.to(torch.int32).contiguous()
    context_lens = context_lens.to(torch.int32).contiguous()
    out = torch.empty_like(q) if out is None else out
    call(
        "paged_decode_attention",
        q.dtype,
        q.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        block_tables.data_ptr(),
        context_lens.data_ptr(),
        out.data_ptr(),
        requests,
        heads,
        key_cache.shape[2],
        head_dim,
        block_tables.stride(0),
        key_cache.shape[1],
        key_cache.stride(1),
        ctypes.byref(scoring_struct(scoring, head_dim)),
    )
    return out


def paged_prefill_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    scoring: Scoring = PLAIN_SCORING,
) -> Tensor:
    """Compute `paged_prefill.paged_prefill_attention`, for tensors that `runs_attention` accepts."""
    q = q.contiguous()
    integers = [x.to(torch.int32).contiguous() for x in (block_tables, query_starts, context_lens)]
    out = torch.empty_like(q)
    call(
        "paged_prefill_attention",
        q.dtype,
        q.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        *(x.data_ptr() for x in integers),
        out.data_ptr(),
        len(context_lens),
        q.shape[1],
        key_cache.shape[2],
        q.shape[2],
        integers[0].stride(0),
        key_cache.shape[1],
        key_cache.stride(1),
        ctypes.byref(scoring_struct(scoring, q.shape[2])),
    )
    return out


def argmax(x: Tensor) -> Tensor:
    """Compute `argmax.argmax`, for rows of any size."""
    out = x.new_empty(len(x), dtype=torch.int64)
    call("argmax", x.dtype, x.data_ptr(), out.data_ptr(), len(x), x.shape[1], x.stride(0))
    return out
