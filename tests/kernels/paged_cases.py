"""Random inputs of paged attention: a KV cache with several requests in random blocks, other blocks not empty."""

from dataclasses import dataclass

import torch
from devices import DEVICE, generator
from torch import Tensor


@dataclass(frozen=True)
class PagedCase:
    """Arguments of the paged attention kernels."""

    q: Tensor
    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor


def paged_case(
    context_lens: list[int],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    block_size: int = 16,
    queries: int | None = None,
    spare_blocks: int = 2,
    index_dtype: torch.dtype = torch.int32,
    seed: int = 0,
) -> PagedCase:
    """Build a case of one query per request, or `queries` in total. Unused table entries hold invalid block numbers."""
    source = generator(seed)
    needed = [-(-length // block_size) for length in context_lens]
    num_blocks = sum(needed) + 2
    data = torch.randn(2, num_blocks, block_size, kv_heads, head_dim, generator=source).to(dtype)
    numbers = iter(torch.randperm(num_blocks, generator=source).tolist())
    width = max(needed) + spare_blocks
    tables = [[*(next(numbers) for _ in range(count)), *[-(1 << 30)] * (width - count)] for count in needed]
    rows = len(context_lens) if queries is None else queries
    data = data.to(DEVICE)
    return PagedCase(
        q=torch.randn(rows, heads, head_dim, generator=source).to(dtype).to(DEVICE),
        key_cache=data[0],
        value_cache=data[1],
        block_tables=torch.tensor(tables, dtype=index_dtype, device=DEVICE),
        context_lens=torch.tensor(context_lens, dtype=index_dtype, device=DEVICE),
    )


def random_sinks(heads: int, seed: int, *, present: bool = True) -> torch.Tensor | None:
    """Return a sink per head, [heads], some of which outweigh most keys; None unless `present`."""
    return torch.randn(heads, generator=torch.Generator().manual_seed(seed)).mul_(4).to(DEVICE) if present else None
