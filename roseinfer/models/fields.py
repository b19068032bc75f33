"""Reading the fields of a model's own description: a config.json, GGUF metadata, a trainer's config."""

from collections.abc import Mapping
from typing import Any, TypeVar

from roseinfer.errors import ModelError

T = TypeVar("T")


def require(raw: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """The value of `key`; ModelError when it is missing or of another type. An integer is a float, too."""
    value = raw.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {value!r}"
        raise ModelError(f"the model's config needs {key} as {kind.__name__}, but it {found}")
    return value


def optional(raw: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    """Like `require`, but `default` where the value is missing or null."""
    return default if raw.get(key) is None else require(raw, key, kind)


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A number of 1 or more; `default`, where there is one, when it is missing or null."""
    value = require(raw, key, int) if default is None else optional(raw, key, int, default)
    if value < 1:
        raise ModelError(f"the model's config has {key} = {value}, which must be 1 or more")
    return value


def require_feature(what: str, found: object, supported: object) -> None:
    """ModelError that names a feature and what is supported of it, unless the model's is just that."""
    if found != supported:
        raise ModelError(f"{what} {found!r} is not supported; supported: {supported!r}")


def gguf_vocab_size(metadata: Mapping[str, Any], prefix: str) -> int:
    """Rows of the embedding: what the GGUF file says, else one for each of its tokens."""
    if metadata.get(f"{prefix}.vocab_size"):
        return size(metadata, f"{prefix}.vocab_size")
    return len(require(metadata, "tokenizer.ggml.tokens", list))
