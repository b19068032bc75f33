"""Each write to the disk fails in turn: one line, results on stdout where there are any, and no half of a file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Run = dict[str, Any]

_SCRIPT = Path(__file__).with_name("failing_writes.py")
_LOAD = ("--prompt-length", "8", "--num-requests", "2", "--json", "--quiet")


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """Runs of three commands with one write failing per run, without the last run of each, in which none failed."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "requests.jsonl").write_text('{"prompt": "abc"}\n')
    batch = ("--input", str(folder / "requests.jsonl"), "--output", "{place}/answers", "--quiet")
    saved = ("--save-requests", "{place}/saved.jsonl", "--plot", "{place}/plot.svg", "--repeats", "1")
    model = ("--model", str(tiny_llama), "--dtype", "float32", "--max-new-tokens", "16")
    commands = {
        "generate": ("generate", *model, *batch),
        "bench": ("bench", *model, *_LOAD, *saved),
        "profile": ("profile", *model, *_LOAD, "--active", "2", "--profile-dir", "{place}/profiles"),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXX": "no-compiler"}
    call = [sys.executable, str(_SCRIPT), str(folder), json.dumps(commands)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, list[Run]] = {}
    for run in map(json.loads, done.stdout.splitlines()):
        found.setdefault(run["name"], []).append(run)
    for name in commands:
        whole = found[name].pop()
        assert (whole["failed"], whole["code"]) == (None, 0), whole
    return found


def files(run: Run) -> set[str]:
    return {path.name for path in Path(run["place"]).rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize("command", ["generate", "bench", "profile"])
def test_a_write_that_fails_is_one_line_or_nothing(command: str, runs: dict[str, list[Run]]) -> None:
    for run in runs[command]:
        assert run["code"] in {0, 1, 2}, run
        assert run["err"].count("\n") == (run["code"] != 0), run
        assert not run["err"] or run["err"].startswith("error: cannot "), run
        assert not run["err"] or any(reason in run["err"] for reason in ("No space", "Input/output", "Read-only")), run
        assert not [name for name in files(run) if "partial" in name], run


def test_a_file_of_answers_is_refused_before_the_work(runs: dict[str, list[Run]]) -> None:
    (run,) = runs["generate"]
    assert (run["code"], files(run)) == (2, set())


def test_a_benchmark_loses_only_the_file_that_fails(runs: dict[str, list[Run]]) -> None:
    assert len(runs["bench"]) >= 4
    for run in runs["bench"]:
        assert run["code"] == 1
        assert len(json.loads(run["out"])["runs"]) == 1, "the results come before the files"
        assert len(files(run) & {"saved.jsonl", "plot.svg"}) == len(files(run)) == 1


def test_a_profile_keeps_what_it_recorded(runs: dict[str, list[Run]]) -> None:
    failed = {run["failed"].split()[1].partition("-")[0] for run in runs["profile"]}
    partial = {re.sub(r"\.\w{8}\.partial$", "", name) for name in failed}
    assert partial >= {"profiles", "rank0", ".manifest.json", ".summary.json", ".latest"}
    for run in runs["profile"]:
        left = files(run)
        if run["code"] == 0 or "summary" in run["failed"]:
            assert json.loads(run["out"])["summary"]["verdict"], "the results come before the error"
            assert left >= {"manifest.json", "rank0-cycle0.pt.trace.json.gz"}
        elif left:
            assert left in ({"rank0-cycle0.pt.trace.json"}, {"rank0-cycle0.pt.trace.json.gz"})
            assert "holds the recorded trace" in run["err"]
