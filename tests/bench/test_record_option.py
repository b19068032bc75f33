"""Benchmarks replace a recorded result only if `--record` says so."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import record_option  # noqa: E402
from record_option import add_record_options, check_record_options, write_record  # noqa: E402


def write(words: list[str]) -> None:
    """Do what a benchmark does with its command line."""
    parser = argparse.ArgumentParser()
    add_record_options(parser, "speed.md")
    arguments = parser.parse_args(words)
    check_record_options(parser, arguments)
    write_record(arguments, "speed.md", "new\n")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "speed.md").write_text("old\n")
    monkeypatch.setattr(record_option, "RESULTS", folder)
    return folder


def test_without_an_option_nothing_is_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([])
    assert (results / "speed.md").read_text() == "old\n"
    assert "add --record or --output PATH" in capsys.readouterr().out


def test_record_replaces_the_recorded_result(results: Path) -> None:
    write(["--record"])
    assert (results / "speed.md").read_text() == "new\n"


def test_another_path_is_written_without_more_words(results: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "elsewhere" / "speed.md", results / "not-there-yet.md"):
        write(["--output", str(path)])
        assert path.read_text() == "new\n"
    assert (results / "speed.md").read_text() == "old\n"


def test_the_path_of_a_recorded_result_needs_record(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results / ".." / "results" / "speed.md"
    with pytest.raises(SystemExit) as stop:
        write(["--output", str(path)])
    assert stop.value.code == 2
    assert "add --record to replace it" in capsys.readouterr().err
    assert path.read_text() == "old\n"
    write(["--output", str(path), "--record"])
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("script", ["compare", "gpu_profiles"])
def test_a_benchmark_refuses_before_it_measures(script: str) -> None:
    recorded = BENCHMARKS / "results" / "gpu-profiles.md"
    before = recorded.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--output", str(recorded)]
        if script == "gpu_profiles"
        else [sys.executable, str(BENCHMARKS / f"{script}.py"), "--output", str(recorded)],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCHMARKS.parent,
    )
    assert done.returncode == 2
    assert "is a recorded result" in done.stderr
    assert recorded.read_bytes() == before


def test_only_this_module_writes_records() -> None:
    named = {path.name for path in BENCHMARKS.glob("*.py") if '"results"' in path.read_text(encoding="utf-8")}
    assert named == {"record_option.py"}
