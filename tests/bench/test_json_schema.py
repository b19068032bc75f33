"""The published JSON Schema equals the one derived from the code."""

import json

from jsonschema import Draft202012Validator

from roseinfer.bench.json_schema import SCHEMA_PATH, bench_schema
from roseinfer.strict_schema import schema_file


def test_the_published_schema_is_up_to_date() -> None:
    assert SCHEMA_PATH.read_bytes() == schema_file(bench_schema()), "run python -m roseinfer.bench.json_schema"


def test_the_schema_is_valid_and_requires_exactly_the_known_fields() -> None:
    schema = json.loads(SCHEMA_PATH.read_bytes())
    Draft202012Validator.check_schema(schema)
    objects = [definition for definition in schema["$defs"].values() if "properties" in definition]
    assert objects
    for definition in objects:
        assert definition["additionalProperties"] is False
        assert set(definition["required"]) == set(definition["properties"])
