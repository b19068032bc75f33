"""Join the results of the splits of decode attention (Flash-Decoding, Dao et al., 2023), inside its kernel."""

from roseinfer.kernels.runtime import tl, triton

_PER_THREAD = 64
"""Elements of partial results per thread. On an H200, 32 and 128 are slower."""
_MAX_AT_ONCE = 16
"""Maximum splits at once. Loads for splits that a request does not have take time, too."""


def splits_at_once(members: int, head_dim: int, num_warps: int) -> int:
    """Return how many splits `joined_splits` loads at once, as many as fit into registers.

    All arguments, and the result, are powers of two.
    """
    return min(max(_PER_THREAD * 32 * num_warps // (members * head_dim), 1), _MAX_AT_ONCE)


@triton.jit
def joined_splits(
    partial_out,
    partial_stats,
    first_row,
    active,
    member,
    dim,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MEMBERS: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Return the attention of the heads of a group over all splits, [MEMBERS, DIM_PADDED], float32.

    Row `first_row + split * GROUP + member` of partial_out [rows, HEAD_DIM] is a weighted sum; that of partial_stats
    [rows, 2] is the largest score, in base 2, and the sum of weights. Splits are added in order, AT_ONCE at a time.
    """
    in_group = member < GROUP
    in_dim = dim < HEAD_DIM
    highest = tl.full((MEMBERS,), -1e30, tl.float32)
    whole = tl.zeros((MEMBERS,), tl.float32)
    joined = tl.zeros((MEMBERS, DIM_PADDED), tl.float32)
    for begin in range(0, active, AT_ONCE):
        split = begin + tl.arange(0, AT_ONCE)
        present = (split < active)[:, None] & in_group[None, :]
        rows = first_row + split[:, None] * GROUP + member[None, :]
        peaks = tl.load(partial_stats + rows * 2, mask=present, other=-1e30, cache_modifier=".cg")
        totals = tl.load(partial_stats + rows * 2 + 1, mask=present, other=0.0, cache_modifier=".cg")
        sums = tl.load(
            partial_out + rows[:, :, None] * HEAD_DIM + dim[None, None, :],
            mask=present[:, :, None] & in_dim[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_highest = tl.maximum(highest, tl.max(peaks, 0))
        before = tl.exp2(highest - new_highest)
        share = tl.exp2(peaks - new_highest[None, :])
        whole = whole * before + tl.sum(totals * share, 0)
        joined = joined * before[:, None] + tl.sum(sums * share[:, :, None], 0)
        highest = new_highest
    return joined / tl.where(in_group, whole, 1.0)[:, None]
