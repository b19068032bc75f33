"""JSON Schema of `bench --json`, published as `bench.schema.json` in this folder.

After a change to `results`, run `python -m roseinfer.bench.json_schema` to write the file again.
"""

from pathlib import Path
from typing import Any

from roseinfer.bench.results import BenchResults
from roseinfer.strict_schema import schema_file, strict_schema

SCHEMA_PATH = Path(__file__).with_name("bench.schema.json")


def bench_schema() -> dict[str, Any]:
    """Return the schema, as `strict_schema` does."""
    return strict_schema(BenchResults, "roseinfer bench --json")


if __name__ == "__main__":
    SCHEMA_PATH.write_bytes(schema_file(bench_schema()))
