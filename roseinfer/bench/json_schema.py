"""The JSON Schema of `bench --json`, published as `bench.schema.json` beside this file.

`python -m roseinfer.bench.json_schema` writes it again after a change to `results`.
"""

from pathlib import Path
from typing import Any

import msgspec

from roseinfer.bench.results import BenchResults

SCHEMA_PATH = Path(__file__).with_name("bench.schema.json")


def bench_schema() -> dict[str, Any]:
    """JSON Schema 2020-12, strict: every field is there, and no other."""
    schema = msgspec.json.schema(BenchResults)
    for definition in schema["$defs"].values():
        if definition.get("type") == "object" and "properties" in definition:
            definition["required"] = sorted(definition["properties"])
            definition["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "roseinfer bench --json",
        **schema,
    }


def published_bytes() -> bytes:
    """What the file holds."""
    return msgspec.json.format(msgspec.json.encode(bench_schema()), indent=2) + b"\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_bytes(published_bytes())
