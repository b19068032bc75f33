"""Commands run where something usual is missing: a home, a user, a folder to write, stdin, a width, a steady clock."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, command, roseinfer

from roseinfer.cli import app

SMALL = ("--dtype", "float32", "--prompt-length", "8", "--max-new-tokens", "2", "--repeats", "1", "--num-requests", "2")
TRACE = Path(__file__).parents[1] / "trace" / "data" / "origin_gather_decode_h200.json.gz"
UNKNOWN = 54321
"""Number of a user and a group without a name."""
READS_ALL = "+dac_read_search"
"""Capability by which the unknown user reads this Python's files, which root may have installed for itself."""

_SEVERAL = """
import contextlib, io, json, sys
from roseinfer.cli import app

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["roseinfer", *arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run()
    print(json.dumps([code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()]), flush=True)
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="only root becomes another user",
)
def test_a_user_without_home_name_and_folder_to_write(tiny_llama: Path, tmp_path: Path) -> None:
    open_folder, closed_folder = tmp_path / "open", tmp_path / "closed"
    for folder in (open_folder, closed_folder):
        folder.mkdir()
    open_folder.chmod(0o777)
    model = ("--model", str(tiny_llama))
    commands = [
        ["generate", "abc", *model, "--dtype", "float32", "--max-new-tokens", "2", "--quiet"],
        ["bench", *model, *SMALL, "--json", "--quiet"],
        ["profile", *model, *SMALL[:-4], "--json", "--quiet", "--profile-dir", str(closed_folder)],
        ["bench", *model, *SMALL, "--quiet", "--plot", str(closed_folder / "plot.svg")],
    ]
    user = ["setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups"]
    user += [f"--inh-caps={READS_ALL}", f"--ambient-caps={READS_ALL}"]
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in {"HOME", "USER", "LOGNAME"}}
    environment |= {"TMPDIR": str(open_folder)}
    environment.pop("ROSEINFER_CACHE_DIR", None)
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [*user, sys.executable, "-c", _SEVERAL, json.dumps(commands)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=closed_folder,
    )
    assert done.returncode == 0, done.stderr
    generate, bench, profile, plot = map(json.loads, done.stdout.splitlines())
    assert generate[0] == bench[0] == 0
    assert len(json.loads(bench[1])["runs"]) == 1
    cache = open_folder / f"roseinfer-{UNKNOWN}"
    assert cache.stat().st_mode & 0o777 == 0o700, "measurements are kept in a private folder"
    assert profile == [1, "", f"error: cannot write to the profile directory {closed_folder}: choose another\n"]
    assert plot[0] == 2
    assert plot[2].startswith(f"error: invalid --plot {closed_folder}/plot.svg: nothing can be written there")
    assert list(closed_folder.iterdir()) == []


def test_an_ascii_locale_and_no_open_stream_but_stdout(tiny_llama: Path) -> None:
    environment = {
        name: value for name, value in ENVIRONMENT.items() if not name.startswith(("PYTHONIO", "LC_", "LANG"))
    }
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def close() -> None:
        os.close(0)
        os.close(2)

    call = command("bench", "--model", tiny_llama, *SMALL)
    done = subprocess.run(call, stdout=subprocess.PIPE, env=environment, preexec_fn=close, check=True)
    assert "mean +- std" in done.stdout.decode("ascii")


def test_without_a_prompt_a_closed_stdin_is_empty(tiny_llama: Path) -> None:
    call = command("generate", "--model", tiny_llama, "--dtype", "float32", "--max-new-tokens", "2")
    done = subprocess.run(call, capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=lambda: os.close(0))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("columns", ["1", "0", "many"])
@pytest.mark.parametrize("arguments", [("--help",), ("bench", "--help"), ("summarize", str(TRACE)), ("models",)])
def test_a_terminal_of_no_width(columns: str, arguments: tuple[str, ...]) -> None:
    done = roseinfer(*arguments, environment=ENVIRONMENT | {"COLUMNS": columns})
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) > 5


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        monkeypatch.setattr("sys.argv", ["roseinfer", *map(str, arguments)])
        assert app.run() == 0
        return json.loads(capfd.readouterr().out)

    return call


def test_a_clock_that_jumps_changes_no_measurement(
    run: Callable[..., Any], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock of the system finds another day."""
    now_s, days = time.time(), itertools.cycle([1, -1])
    monkeypatch.setattr(time, "time", lambda: now_s + 86_400 * next(days))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    monkeypatch.setattr(time, "gmtime", lambda *_: time.struct_time((2000 + next(days), 1, 1, 0, 0, 0, 0, 1, 0)))
    started_s = time.perf_counter()
    result = run("bench", "--model", tiny_llama, *SMALL, "--json", "--quiet")["runs"][0]
    longest_ms = 1000 * (time.perf_counter() - started_s)
    assert 0 < result["ttft_ms"]["mean"] <= result["e2e_ms"]["mean"] < longest_ms

    layouts = iter(["20260102-000000", "20260101-000000", "20260101-000000"])  # the clock goes back, then stands
    strftime = time.strftime
    monkeypatch.setattr(
        time, "strftime", lambda form, *at: next(layouts) if form == "%Y%m%d-%H%M%S" else strftime(form, *at)
    )
    call = (
        "profile",
        "--model",
        tiny_llama,
        *SMALL[:-4],
        "--max-new-tokens",
        "16",
        "--active",
        "2",
        "--json",
        "--quiet",
    )
    profiles = tmp_path / "profiles"
    folders = [run(*call, "--profile-dir", profiles)["run_dir"] for _ in range(3)]
    assert [Path(folder).name for folder in folders] == [
        "20260102-000000-online",
        "20260101-000000-online",
        "20260101-000000-online-2",
    ]
    assert (profiles / "latest").resolve() == Path(folders[-1]).resolve()
