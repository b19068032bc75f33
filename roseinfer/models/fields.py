"""Typed access to the fields of a model's description: a config.json, GGUF metadata, or a trainer's config."""

from collections.abc import Mapping
from typing import Any, TypeVar

from roseinfer.errors import ModelError

T = TypeVar("T")


def require(raw: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return the value of `key`. Raises ModelError if it is missing or of another type. An integer passes as float."""
    value = raw.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {value!r}"
        raise ModelError(f"the model's config needs {key} as {kind.__name__}, but it {found}")
    return value


def optional(raw: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    """Return the value of `key`, or `default` if it is missing or null. Raises ModelError for another type."""
    return default if raw.get(key) is None else require(raw, key, kind)


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return an integer of 1 or more, or `default` if the value is missing or null.

    Raises ModelError for any other value, and for a missing one without a default.
    """
    value = require(raw, key, int) if default is None else optional(raw, key, int, default)
    if value < 1:
        raise ModelError(f"the model's config has {key} = {value}, which must be 1 or more")
    return value


def require_feature(what: str, found: object, supported: object) -> None:
    """Raise ModelError unless the value found is the one supported. `what` names the field in the message."""
    if found != supported:
        raise ModelError(f"{what} {found!r} is not supported; supported: {supported!r}")


def gguf_vocab_size(metadata: Mapping[str, Any], prefix: str) -> int:
    """Return the rows of the embedding: the vocabulary size in the GGUF metadata, else the number of tokens."""
    if metadata.get(f"{prefix}.vocab_size"):
        return size(metadata, f"{prefix}.vocab_size")
    return len(require(metadata, "tokenizer.ggml.tokens", list))
