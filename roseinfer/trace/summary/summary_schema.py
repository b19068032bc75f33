"""JSON Schema of `summarize --json`, published as `summary.schema.json` in this folder.

After a change to the structs of a summary, run `python -m roseinfer.trace.summary.summary_schema` to write the file.
"""

from pathlib import Path
from typing import Any

import msgspec

from roseinfer.trace.summary.trace_summary import Summary

SCHEMA_PATH = Path(__file__).with_name("summary.schema.json")


def summary_schema() -> dict[str, Any]:
    """Return the schema in JSON Schema 2020-12. It is strict: all fields are required, and no others are allowed."""
    schema = msgspec.json.schema(Summary)
    for definition in schema["$defs"].values():
        if definition.get("type") == "object" and "properties" in definition:
            definition["required"] = sorted(definition["properties"])
            definition["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "roseinfer summarize --json",
        **schema,
    }


def published_text() -> bytes:
    """Return the content of `summary.schema.json`."""
    return msgspec.json.format(msgspec.json.encode(summary_schema()), indent=2) + b"\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_bytes(published_text())
