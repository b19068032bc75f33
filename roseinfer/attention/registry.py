"""Attention backends by name."""

from roseinfer.attention.base import AttentionBackend
from roseinfer.attention.gather import GatherAttention
from roseinfer.config import AttentionName

_BACKENDS: dict[AttentionName, type[AttentionBackend]] = {"gather": GatherAttention}


def attention_backend(name: AttentionName) -> AttentionBackend:
    return _BACKENDS[name]()
