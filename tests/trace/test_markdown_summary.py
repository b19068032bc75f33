"""`summarize --markdown` stands alone in a pull request: title, context, verdict, tables, command."""

import re
from pathlib import Path

import pytest
from traces import TUTORIAL

from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.trace import Summary, compare, summarize_trace


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarize_trace(TUTORIAL)


def test_title_and_context_come_first(summary: Summary) -> None:
    title, empty, context = to_markdown(summary).splitlines()[:3]
    assert title == "### `origin_gather_decode_h200.json.gz`: where the time goes"
    assert not empty
    assert context == "NVIDIA H200 · CUDA 13.0 · recorded 2026-11-22 20:06 UTC · 42,345 events"


def test_verdict_evidence_and_advice_are_labelled(summary: Summary) -> None:
    text = to_markdown(summary)
    order = [text.index(label) for label in ("**Verdict: ", "\nEvidence:\n\n- ", "\nAdvice:\n\n- ")]
    assert order == sorted(order)


def test_the_command_comes_last(summary: Summary) -> None:
    assert to_markdown(summary, command="roseinfer summarize 'my trace.json'").endswith(
        "\n```console\n$ roseinfer summarize 'my trace.json'\n```\n"
    )
    assert "```" not in to_markdown(summary)


def test_a_comparison_shows_its_tables_unfolded(summary: Summary) -> None:
    text = to_markdown(compare(summary, summary))
    shown, folded = text.split("<details>", 1)
    assert f"**Compared with `{Path(summary.trace.path)}`: decode: no clear change" in shown
    assert "**Compared with the baseline, per step**" in shown
    assert "**Top operators and kernels by self time**" in folded
    assert text.count("<details>") == text.count("</details>") == 1


def test_lines_have_no_trailing_blanks(summary: Summary) -> None:
    text = to_markdown(compare(summary, summary), command="roseinfer")
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
