"""Tile sizes of decode attention, chosen from shapes alone."""

from dataclasses import dataclass

from torch import Tensor

from roseinfer.kernels.runtime import next_power_of_two, num_multiprocessors

_MAX_SPLITS = 32

_LONG_CONTEXT = 8192
"""Tokens from which more splits, each with more tokens at a time, read keys and values faster. On an H200, batch 1 of
qwen3-0.6b at 32,768 tokens reads 3.3 TB/s instead of 1.8, at 131,072 tokens 4.0 instead of 2.0."""


_MEDIUM_CONTEXT = 2048
"""Tokens from which programs of one warp read keys and values faster in tiles of 32 tokens than of 16. On an H200 with
4,096 tokens, a layer of qwen3-0.6b takes 31 us instead of 36 at batch 1, 96 instead of 97 at 16, and 156 instead of 167
at 32. With 1,024 tokens, tiles of 16 are as fast or faster."""


@dataclass(frozen=True)
class DecodeTiles:
    """Tile sizes and options of a launch."""

    tile: int
    """Tokens that a program processes at once."""
    num_splits: int
    """Parts that each request's keys are cut into."""
    num_warps: int
    num_stages: int
    ordered: bool = False
    """True if programs start in the order of `CachedRequests.order`: faster if not all of them run at once."""


def decode_tiles(requests: int, heads: int, key_cache: Tensor, max_tokens: int) -> DecodeTiles:
    """Choose tiles from shapes alone, so that a captured launch serves every length that fits the tables.

    The choices were the fastest of those measured on an H200 with contexts of 256 to 1000 tokens. The number of splits
    is a power of two, so that batches of many sizes share a few compiled kernels.
    """
    kv_heads, head_dim = key_cache.shape[2:]
    lanes, multiprocessors = requests * kv_heads, num_multiprocessors(key_cache.device)
    is_alone = heads == kv_heads  # no two query heads share keys, so tensor cores are not used
    if lanes >= 2 * multiprocessors:
        wanted = 1
        tile, num_warps = (16 if lanes >= 2048 else 32, 2) if is_alone else (64, 4)
    else:
        # Programs of a single warp need no synchronization, and many of them run at the same time.
        wanted = -(-(2 if is_alone else 8) * multiprocessors // lanes)
        # The results of many heads take long to join, so their splits are fewer and longer: one request's step of
        # qwen3-30b-a3b takes 2.39 ms with tiles of 32 tokens, 2.47 ms with 16.
        has_few_lanes = heads >= 8 * kv_heads and lanes <= 16
        tile = 32 if head_dim <= 128 and (has_few_lanes or max_tokens > _MEDIUM_CONTEXT) and not is_alone else 16
        num_warps = 1
    max_splits = _MAX_SPLITS
    if max_tokens > _LONG_CONTEXT and lanes < 2 * multiprocessors and not is_alone and head_dim <= 128:
        wanted, max_splits = -(-4 * multiprocessors // lanes), 2 * _MAX_SPLITS
        tile, num_warps = (128, 4) if head_dim <= 64 else (64, 2)
    if head_dim > 64 if is_alone else head_dim > 128:
        num_warps = min(2 * num_warps, 4)
    if head_dim > 128:
        tile = min(tile, 64 // key_cache.element_size())
    # If many programs run one after another, three resident programs hide start-up better than two with more stages.
    num_stages = 2 if key_cache.element_size() > 2 or lanes > 10 * multiprocessors else 3
    possible = -(-max_tokens // tile)
    splits = next_power_of_two(min(wanted, possible, max_splits) + 1) // 2
    return DecodeTiles(
        tile=tile,
        num_splits=splits,
        num_warps=num_warps if heads // kv_heads <= 16 else 8,
        num_stages=num_stages,
        ordered=lanes > 4 * multiprocessors,
    )
