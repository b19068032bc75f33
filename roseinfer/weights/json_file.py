"""Reading the JSON files that describe a Hugging Face model."""

import json
from pathlib import Path
from typing import Any

from roseinfer.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises ModelError for a file that cannot be read or is not an object."""
    try:
        # The standard parser accepts NaN and Infinity, which some published configs contain. msgspec does not.
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}; download it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} should hold a JSON object, not a {type(value).__name__}; download it again")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file as `read_json` does, or return an empty object if there is no file."""
    return read_json(path) if path.is_file() else {}
