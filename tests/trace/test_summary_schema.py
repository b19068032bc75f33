"""The JSON of summarize: its published schema, the keys of findings, and their maximum number."""

import json

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from traces import DATA, MATMUL, TUTORIAL

from roseinfer.cli import console
from roseinfer.cli.app import run
from roseinfer.strict_schema import schema_file
from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.summary_schema import SCHEMA_PATH, summary_schema


def test_the_published_schema_is_up_to_date() -> None:
    assert SCHEMA_PATH.read_bytes() == schema_file(summary_schema()), (
        "run python -m roseinfer.trace.summary.summary_schema"
    )


def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *args: object) -> str:
    monkeypatch.setattr("sys.argv", ["roseinfer", "summarize", *map(str, args)])
    monkeypatch.setattr(console, "stdout", Console(width=100))
    assert run() == 0
    return capfd.readouterr().out


@pytest.mark.parametrize(
    "args",
    [(MATMUL,), (TUTORIAL, "--baseline", TUTORIAL), (DATA / "verdicts/eight_ranks",), (DATA / "verdicts/own_cpu_run",)],
    ids=["gpu", "comparison", "ranks", "cpu"],
)
def test_documents_fit_the_schema(
    args: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    schema = json.loads(SCHEMA_PATH.read_bytes())
    Draft202012Validator.check_schema(schema)
    document = json.loads(printed(monkeypatch, capfd, *args, "--json"))
    Draft202012Validator(schema).validate(document)
    assert not Draft202012Validator(schema).is_valid({**document, "unknown": 1})


def test_findings_have_keys_that_are_the_same_in_every_recording() -> None:
    found = summarize_trace(TUTORIAL).findings
    keys = [finding.key for finding in found]
    assert len(set(keys)) == len(keys) >= 3
    assert all(key.startswith(finding.id) for key, finding in zip(keys, found, strict=True))
    assert keys == [finding.key for finding in summarize_trace(TUTORIAL).findings]


def test_the_number_of_findings_can_be_limited(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    every = summarize_trace(TUTORIAL).findings
    document = json.loads(printed(monkeypatch, capfd, TUTORIAL, "--json", "--max-findings", 2))
    assert [one["key"] for one in document["findings"]] == [finding.key for finding in every[:2]]
    assert len(every) > 2
