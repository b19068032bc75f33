"""JSON Schema of `bench --json`, published as `bench.schema.json` in this folder.

After a change to `results`, run `python -m roseinfer.bench.json_schema` to write the file again.
"""

from pathlib import Path
from typing import Any

import msgspec

from roseinfer.bench.results import BenchResults

SCHEMA_PATH = Path(__file__).with_name("bench.schema.json")


def bench_schema() -> dict[str, Any]:
    """Return the schema in JSON Schema 2020-12. It is strict: all fields are required, and no others are allowed."""
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
    """Return the content of `bench.schema.json`."""
    return msgspec.json.format(msgspec.json.encode(bench_schema()), indent=2) + b"\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_bytes(published_bytes())
