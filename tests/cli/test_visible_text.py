"""Control characters of strangers are shown, not executed, on a terminal and in Markdown."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from roseinfer.cli import console
from roseinfer.cli.generate import generation
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.terminal import print_summary
from roseinfer.cli.visible_text import visible
from roseinfer.trace import summarize_trace

HOSTILE = "a\x1b[2J\x1b]0;title\x07\r\x08b\x9b31m\u202ec[/x][bold]"
HARMLESS = "a\\x1b[2J\\x1b]0;title\\x07\\x0d\\x08b\\x9b31m\\u202ec[/x][bold]"


def test_control_characters_become_visible() -> None:
    assert visible(HOSTILE) == HARMLESS
    assert visible("tab\tline\n日本 é 👩‍👧") == "tab\tline\n日本 é 👩‍👧"
    visible("\ud800").encode()


def test_errors_and_notes_execute_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.settings, "quiet", False)  # commands that ran in this process may have set it
    console.print_error(f"{HOSTILE}: no such file")
    console.note(HOSTILE)
    assert capsys.readouterr().err == f"error: {HARMLESS}: no such file\n{HARMLESS}\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_generated_text_executes_nothing_on_a_terminal(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", out)
    generation._write(HOSTILE)
    assert out.getvalue() == (HARMLESS if is_terminal else HOSTILE)


def test_names_in_a_trace_execute_nothing(tmp_path: Path) -> None:
    same = {"ph": "X", "pid": 1, "tid": 1, "ts": 0, "name": HOSTILE}
    events = [{**same, "cat": "cpu_op", "dur": 10}, {**same, "cat": "user_annotation", "dur": 20}]
    path = tmp_path / "[" / "x].json"
    path.parent.mkdir()
    path.write_text(json.dumps({"traceEvents": events}))
    summary = summarize_trace(path)
    out = io.StringIO()
    print_summary(Console(file=out, width=160), summary)
    shown = out.getvalue() + to_markdown(summary)
    assert "\\x1b" in shown
    assert not any(character in shown for character in "\x1b\x07\r\x08\x9b\u202e")
