"""Typed access to the fields of a model's description: a config.json, GGUF metadata, or a trainer's config."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from roseinfer.errors import ModelError
from roseinfer.model_files import quoted

T = TypeVar("T")

MAX_SIZE = 1 << 26
"""Maximum of any size in a description. A larger one is damaged: the largest published models are far below."""
MAX_LAYERS = 10_000
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "block_count")

_LARGEST_EXACT = 1 << 53
"""Integers below this are exact as float."""


class WatchedFields(dict[str, Any]):
    """A description's fields that remember which key was read last, for errors that no check foresaw."""

    last_key: str | None = None
    has_types: bool = False
    """True if the format has a type per value, as GGUF has: an integer in place of a float is damage then."""

    def __getitem__(self, key: str) -> Any:
        self.last_key = key
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as `dict.get` does."""
        self.last_key = key
        return super().get(key, default)


def require(raw: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return the value of `key`. An integer passes as float, unless the description has types of its own.

    Raises ModelError if the value is missing, of another type, or a number that is not finite.
    """
    value = raw.get(key)
    is_exact = isinstance(raw, WatchedFields) and raw.has_types
    if kind is float and type(value) is int and abs(value) < _LARGEST_EXACT and not is_exact:
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {quoted(value)}"
        raise ModelError(f"the model's config needs {key} as {kind.__name__}, but it {found}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelError(f"the model's config has {key} = {value}, which must be finite")
    return value


def optional(raw: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    """Return the value of `key`, or `default` if it is missing or null. Raises ModelError for another type."""
    return default if raw.get(key) is None else require(raw, key, kind)


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return an integer from 1 to the largest that a model has, or `default` if the value is missing or null.

    Raises ModelError for any other value, and for a missing one without a default.
    """
    value = require(raw, key, int) if default is None else optional(raw, key, int, default)
    if value < 1:
        raise ModelError(f"the model's config has {key} = {quoted(value)}, which must be 1 or more")
    limit = MAX_LAYERS if key.endswith(_LAYER_KEYS) else MAX_SIZE
    if value > limit:
        raise ModelError(f"the model's config has {key} = {quoted(value)}, and the limit is {limit:,}")
    return value


def same_size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return an integer as `size` does. GGUF files may have a list, one per layer, whose elements must be equal."""
    value = raw.get(key)
    if not isinstance(value, list) or not value:
        return size(raw, key, default)
    if any(each != value[0] for each in value):
        raise ModelError(f"layers that differ in {key} ({value[0]}, ...) are not supported; supported: the same in all")
    return size({key: value[0]}, key)


def require_feature(what: str, found: object, supported: object) -> None:
    """Raise ModelError unless the value found is the one supported. `what` names the field in the message."""
    if found != supported:
        raise ModelError(f"{what} {quoted(found)} is not supported; supported: {supported!r}")


def gguf_vocab_size(metadata: Mapping[str, Any], prefix: str) -> int:
    """Return the rows of the embedding: the vocabulary size in the GGUF metadata, else the number of tokens."""
    if metadata.get(f"{prefix}.vocab_size"):
        return size(metadata, f"{prefix}.vocab_size")
    return len(require(metadata, "tokenizer.ggml.tokens", list))
