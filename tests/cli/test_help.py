"""`--help`: every option says in one sentence what it sets, and no word is split at 80 columns."""

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from command import ENVIRONMENT, roseinfer
from typer.main import get_command

from roseinfer.cli.app import COMMANDS as COMMAND_SUMMARIES
from roseinfer.cli.app import app

COMMANDS = ["generate", "bench", "profile", "summarize"]
"""Commands with many options."""


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
    assert generate["--max-batch-size N"] == "Maximum requests per step [default: 8 on a CPU, by memory on a GPU]."
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


@pytest.mark.parametrize("columns", [30, 59, 60, 80, 100, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_line_ends_in_a_blank_or_between_a_number_and_its_unit(command: str, columns: int) -> None:
    done = roseinfer(*command.split(), "--help", environment={**ENVIRONMENT, "COLUMNS": str(columns)})
    for line in done.stdout.splitlines():
        assert line == line.rstrip()
        assert not re.search(r"\b(about|up to) \d+$", line)
    assert re.search(r"\b30 s\b", done.stdout) or command in ("", "summarize")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_page_ends_with_examples_that_are_valid_calls(command: str) -> None:
    shown = page(command).partition("\nExamples\n")[2]
    calls = [line.strip() for line in shown.splitlines() if not line.startswith("  # ")]
    assert len(calls) >= 3
    group: Any = get_command(app)
    for call in calls:
        program, name, *arguments = shlex.split(call.partition(" > ")[0])
        assert program == "roseinfer"
        assert max(map(len, call.splitlines())) <= 78
        context = group.make_context("roseinfer", [name])
        group.get_command(context, name).make_context(name, arguments)  # raises for an option that does not exist


def test_the_first_page_ends_with_examples_that_are_valid_calls() -> None:
    shown = roseinfer("--help", environment={**ENVIRONMENT, "COLUMNS": "80"}).stdout.partition("\nExamples\n")[2]
    calls = [shlex.split(line) for line in shown.splitlines() if not line.startswith("  # ")]
    assert {name for _, name, *_ in calls} == set(COMMANDS)
    group: Any = get_command(app)
    for program, name, *arguments in calls:
        assert program == "roseinfer"
        if arguments != ["--help"]:
            context = group.make_context("roseinfer", [name])
            group.get_command(context, name).make_context(name, arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_the_first_sentence_of_each(command: str) -> None:
    description = " ".join(page(command).split("\n\n")[1].split())
    assert COMMAND_SUMMARIES[command].summary == re.match(r".*?\.(?= |$)", description)[0]  # type: ignore[index]


def test_panels_come_in_the_order_in_which_people_need_them() -> None:
    titles = [line for line in page("bench").splitlines() if re.fullmatch(r"[A-Z][a-z]+", line)]
    assert titles[:3] == ["Model", "Workload", "Grid"]
    assert titles[-4:] == ["Sampling", "Engine", "General", "Examples"]
    assert list(entries(page("generate")))[:2] == ["--config NAME|PATH", "--model MODEL"]


@pytest.mark.parametrize(
    ("variables", "is_colored"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colors_are_for_terminals_unless_a_variable_decides(variables: dict[str, str], is_colored: bool) -> None:
    clean = {name: value for name, value in ENVIRONMENT.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    done = roseinfer("bench", "--help", environment={**clean, **variables})
    assert ("\x1b[" in done.stdout) == is_colored
    wrong = roseinfer("bench", "--wrong", environment={**clean, **variables})
    assert ("\x1b[" in wrong.stderr) == is_colored


def test_the_module_and_the_entry_point_print_the_same_page() -> None:
    script = "import sys; from roseinfer.__main__ import main; sys.argv = ['/usr/bin/roseinfer', 'bench', '-h']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout == page("bench", 100)
    assert done.stdout.startswith("Usage: roseinfer bench [OPTIONS]\n")


def test_a_call_without_a_command_prints_the_page_and_is_wrong() -> None:
    done = roseinfer()
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == roseinfer("--help").stdout
