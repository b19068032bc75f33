"""Attention backends by name."""

from collections.abc import Callable

from roseinfer.attention.base import AttentionBackend
from roseinfer.attention.gather import GatherAttention
from roseinfer.attention.paged import PagedAttention
from roseinfer.config import AttentionName

_BACKENDS: dict[AttentionName, Callable[[int | None], AttentionBackend]] = {
    "paged": PagedAttention,
    "gather": GatherAttention,
}


def attention_backend(name: AttentionName, sliding_window: int | None = None) -> AttentionBackend:
    """The backend called `name`, in which a token looks at itself and at most `sliding_window` - 1 tokens before."""
    return _BACKENDS[name](sliding_window)
