"""Attention backends by name, and the choice of one for an engine."""

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.compiled_attention import CompiledAttention
from roseinfer.attention.gather_attention import GatherAttention
from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import AttentionName

_BACKENDS: dict[AttentionName, tuple[type[AttentionBackend], ...]] = {
    "paged": (TritonAttention, CompiledAttention, TorchAttention),
    "gather": (GatherAttention,),
}
"""Implementations per name, fastest first. The last one of each name takes every cache."""


def attention_backend(name: AttentionName, cache: KVCache) -> AttentionBackend:
    """Return the fastest backend with this `--attention` name that runs on the cache's device, dtype and shape."""
    return next(backend for kind in _BACKENDS[name] if (backend := kind.for_cache(cache)) is not None)
