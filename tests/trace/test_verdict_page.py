"""docs/verdicts.md lists every kind and threshold; `tests/test_pages_run.py` runs its examples."""

import re
from pathlib import Path
from typing import get_args

import case_traces
import pytest

from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.trace_summary import VerdictKind
from roseinfer.trace.verdict import thresholds

PAGE = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")


def test_the_page_lists_every_threshold_with_its_value() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+)[ a-z%]* \|", PAGE, re.MULTILINE)
    constants = {name: value for name, value in vars(thresholds).items() if name.isupper()}
    assert {name: float(value) for name, value in rows} == constants


def test_the_page_explains_and_shows_every_kind() -> None:
    kinds = set(get_args(VerdictKind))
    assert set(re.findall(r"^\| \[`([a-z_]+)`\]", PAGE, re.MULTILINE)) == kinds
    assert set(case_traces.EXAMPLES) == kinds
    for kind in kinds:
        assert f"$ roseinfer summarize tests/trace/data/verdicts/{kind}.json\n" in PAGE


def test_the_examples_are_those_of_the_generator(tmp_path: Path) -> None:
    case_traces.write_examples(tmp_path)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.json")}
    kept = {path.relative_to(case_traces.SHOWN): path.read_text() for path in case_traces.SHOWN.rglob("*.json")}
    assert made == kept


@pytest.mark.parametrize("kind", case_traces.EXAMPLES)
def test_an_example_gets_the_kind_that_it_is_named_after(kind: str) -> None:
    assert summarize_trace(case_traces.SHOWN / f"{kind}.json").verdict.kind == kind
