"""Attention backends by name."""

from collections.abc import Callable

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.gather_attention import GatherAttention
from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import AttentionName

_BACKENDS: dict[AttentionName, Callable[[int | None], AttentionBackend]] = {
    "paged": TorchAttention,
    "gather": GatherAttention,
}


def attention_backend(
    name: AttentionName, sliding_window: int | None = None, cache: KVCache | None = None
) -> AttentionBackend:
    """The backend called `name`, in which a token looks at itself and at most `sliding_window` - 1 tokens before.

    `paged` is the one of Triton kernels where these can read the cache that is given, else the one of torch operations.
    """
    if name == "paged" and cache is not None and TritonAttention.fits(cache):
        return TritonAttention(sliding_window)
    return _BACKENDS[name](sliding_window)
