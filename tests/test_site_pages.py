"""The generated parts of the documentation site say what the code says, and its links stay inside it."""

import re
import sys
from pathlib import Path

import msgspec
import pytest

import roseinfer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from site_pages import COMMANDS, documents, field_tables, for_the_site, help_text, moved_pages, with_links  # noqa: E402


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("docs/cpu.md", "[a](../benchmarks/results/soak.md)", "[a](records/soak.md)"),
        ("docs/index.md", "[a](../CONTRIBUTING.md#tests)", "[a](contributing.md#tests)"),
        ("docs/index.md", "[a](cpu.md#threads)", "[a](cpu.md#threads)"),
        ("docs/index.md", "[a](#here), [b](https://example.org/x.md)", "[a](#here), [b](https://example.org/x.md)"),
        ("CONTRIBUTING.md", "[a](docs/architecture.md), [b](CHANGELOG.md)", "[a](architecture.md), [b](changelog.md)"),
        ("CONTRIBUTING.md", "see [the `hooks`](.pre-commit-config.yaml)", "see the `hooks`"),
        ("benchmarks/cpu-notes.md", "[a](results/soak.md), [b](../README.md)", "[a](soak.md), b"),
    ],
)
def test_links_lead_to_pages_of_the_site(source: str, link: str, expected: str) -> None:
    assert with_links(link, source) == expected


def test_every_record_of_a_benchmark_is_a_page() -> None:
    records = {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").rglob("*.md")}
    assert records <= set(moved_pages())
    assert len(set(moved_pages().values())) == len(moved_pages())


def test_every_field_of_every_document_has_a_row() -> None:
    tables = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", field_tables(), re.DOTALL | re.MULTILINE))
    for _, schema in documents().values():
        for name, definition in schema["$defs"].items():
            rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", tables[name], re.MULTILINE)
            assert [field for field, _ in rows] == list(definition["properties"])
            assert not [types for _, types in rows if "typing" in types or "<" in types]


def test_a_row_has_the_fields_type_and_docstring() -> None:
    assert "| `trust` | list of [Trust](#trust) | " in field_tables()
    assert "Wall time and its parts in ms." in field_tables()
    assert "| `phases` | object of [PhaseBudget](#phasebudget) | " in field_tables()


def test_schemas_accept_what_is_encoded() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from roseinfer.trace import summarize_trace

    summary = summarize_trace(ROOT / "tests" / "trace" / "data" / "gpu_bound_matmul_h200.json.gz")
    jsonschema.validate(msgspec.to_builtins(summary), documents()["summary"][1])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_pages_fit_80_columns_and_name_the_program(command: str) -> None:
    text = help_text(command)
    assert text.startswith(f"Usage: roseinfer {command} ")
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^::: roseinfer\.(\w+)$", page, re.MULTILINE)
    assert sorted(described) == sorted(set(roseinfer.__all__) - {"__version__"})


def test_what_is_for_readers_of_a_file_is_left_out_of_the_site() -> None:
    aside = "<!-- off the site -->\nRun `make docs`.\n<!-- end -->\n"
    assert for_the_site(f"One.\n\n{aside}\nTwo.\n\n{aside}") == "One.\n\n\nTwo.\n\n"
