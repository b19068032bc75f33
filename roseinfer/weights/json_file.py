"""Reading the JSON files that describe a Hugging Face model."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from roseinfer.errors import ModelError
from roseinfer.model_files import MAX_JSON_BYTES, check_size, reading, shortened


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises ModelError for a file that cannot be read, is too large, is not an object, or has a key twice.
    """
    with reading(path):
        try:
            check_size(path, MAX_JSON_BYTES)
            # The standard parser accepts NaN and Infinity, which some published configs contain. msgspec does not.
            # Some editors put a byte order mark before the text.
            value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
        except ValueError as error:
            raise ModelError(f"{path} is not valid JSON: {shortened(str(error))}; download it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} should hold a JSON object, not a {type(value).__name__}; download it again")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file as `read_json` does, or return an empty object if there is no file."""
    return read_json(path) if path.is_file() else {}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dict. A key that occurs twice has no meaning that all programs agree on."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {twice!r} twice")
    return fields
