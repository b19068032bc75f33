"""JSON Schemas that are published with the documents of a command."""

from typing import Any

import msgspec


def strict_schema(document: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """Return the schema of a struct in JSON Schema 2020-12: all fields are required, and no others are allowed."""
    schema = msgspec.json.schema(document)
    for definition in schema["$defs"].values():
        if definition.get("type") == "object" and "properties" in definition:
            definition["required"] = sorted(definition["properties"])
            definition["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def schema_file(schema: dict[str, Any]) -> bytes:
    """Return the content of the file of a schema."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
