"""`--help`: every option says in one sentence what it sets, and no word is split at 80 columns."""

import re

import pytest
from command import ENVIRONMENT, roseinfer

COMMANDS = ["generate", "bench", "profile", "summarize"]


def page(command: str, columns: int = 80) -> str:
    done = roseinfer(command, "--help", environment={**ENVIRONMENT, "COLUMNS": str(columns)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def entries(shown: str) -> dict[str, str]:
    """Return the help of each option by its left column: the names and the placeholder of the value."""
    found: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        if match := re.match(r"  (-\S+(?: \S+)*?)(?:  +(.*))?$", line):
            name = match[1]
            found[name] = match[2] or ""
        elif name and line.startswith(" " * 30):
            found[name] = f"{found[name]} {line.strip()}".strip()
        else:
            name = ""
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_one_sentence_and_nothing_is_cut_at_80_columns(command: str) -> None:
    narrow, wide = page(command), page(command, 400)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert "<bool>" not in narrow
    assert narrow.split() == wide.split(), "a word is split"
    found = entries(narrow)
    assert len(found) > 5
    for name, about in found.items():
        assert re.fullmatch(r"[A-Z].*[^.]\.", about), name
        assert re.fullmatch(r"(-\w, )?--[\w-]+(/--[\w-]+)?( \S+)?", name)


def test_the_default_is_the_one_that_the_command_uses() -> None:
    generate, bench, profile, summarize = (entries(page(command)) for command in COMMANDS)
    assert generate["--max-batch-size N"] == "Maximum requests per step [default: 8]."
    assert generate["--max-new-tokens N"] == "Maximum tokens per completion [default: 64]."
    assert bench["--max-new-tokens N[,N...]"] == "Maximum tokens per completion [default: 32]."
    assert generate["--stop-on-eos/--no-stop-on-eos"].endswith("[default: --stop-on-eos].")
    assert bench["--stop-on-eos/--no-stop-on-eos"].endswith("[default: --no-stop-on-eos].")
    assert bench["--repeats N"].endswith("[default: 3].")
    assert profile["--active N"] == "Steps per cycle to record [default: 3]."
    assert profile["--top N"] == summarize["--top N"]
    assert profile["--sort-by self|total|calls"] == summarize["--sort-by self|total|calls"]


def test_an_option_that_is_refused_is_not_offered() -> None:
    assert "--output" not in page("bench")
    assert "--output FILE" in page("generate")
