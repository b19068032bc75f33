"""JSON Schema of `summarize --json`, published as `summary.schema.json` in this folder.

After a change to the structs of a summary, run `python -m roseinfer.trace.summary.summary_schema` to write the file.
"""

from pathlib import Path
from typing import Any

from roseinfer.strict_schema import schema_file, strict_schema
from roseinfer.trace.summary.trace_summary import Summary

SCHEMA_PATH = Path(__file__).with_name("summary.schema.json")


def summary_schema() -> dict[str, Any]:
    """Return the schema, as `strict_schema` does."""
    return strict_schema(Summary, "roseinfer summarize --json")


if __name__ == "__main__":
    SCHEMA_PATH.write_bytes(schema_file(summary_schema()))
