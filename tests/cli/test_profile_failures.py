"""`roseinfer profile` prints one line and loses no earlier run if it is interrupted or cannot write."""

import json
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import ENVIRONMENT, command, succeeds, without_progress

TINY = ("--max-new-tokens", 40, "--dtype", "float32", "--prompt", "abc", "--no-stop-on-eos", "--raw")


def start(folder: Path, model: Path, *arguments: object, max_file_bytes: int | None = None) -> subprocess.Popen[str]:
    def limit() -> None:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    return subprocess.Popen(
        command("profile", "--model", model, "--profile-dir", folder, *TINY, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=limit,
    )


def interrupt_while_it_records(
    process: subprocess.Popen[str], folder: Path, number: signal.Signals = signal.SIGINT
) -> tuple[str, str]:
    """Send a signal, by default Ctrl-C, some steps after the run directory appears; return stdout and stderr."""
    deadline = time.monotonic() + 120
    while not any(folder.glob("2*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    return stdout, without_progress(stderr)


@pytest.mark.parametrize(
    ("state", "schedule"), [("wait", ("--wait", 10**6)), ("warm-up", ("--wait", 0, "--warmup", 10**6))]
)
def test_ctrl_c_before_the_window_leaves_no_run(
    tmp_path: Path, tiny_llama: Path, state: str, schedule: tuple[object, ...]
) -> None:
    process = start(tmp_path, tiny_llama, *schedule)
    _, stderr = interrupt_while_it_records(process, tmp_path)
    assert process.returncode == 130, state
    assert stderr.splitlines() == ["error: interrupted"]
    assert list(tmp_path.iterdir()) == []


def test_sigterm_inside_the_window_keeps_what_was_recorded(tmp_path: Path, tiny_llama: Path) -> None:
    process = start(tmp_path, tiny_llama, "--wait", 0, "--warmup", 0, "--active", 10**6, "--max-trace-size", "1000GiB")
    _, stderr = interrupt_while_it_records(process, tmp_path, signal.SIGTERM)
    assert process.returncode == 143, stderr
    assert stderr.splitlines()[-1] == "error: ended by SIGTERM"
    assert "Traceback" not in stderr
    run_dir = tmp_path / "latest"
    manifest = json.loads((run_dir / "manifest.json").read_text())
    cycle = manifest["cycles"][0]
    assert cycle["partial"] == "interrupted"
    assert cycle["steps"] == len(manifest["steps"]) > 0
    shown = json.loads(succeeds("summarize", run_dir, "--json").stdout)
    assert shown["steps"]["count"] in (cycle["steps"], cycle["steps"] + 1)


def test_a_disk_that_fills_up_is_one_line_and_loses_no_earlier_run(tmp_path: Path, tiny_llama: Path) -> None:
    first = start(tmp_path, tiny_llama)
    assert first.wait(120) == 0
    earlier = (tmp_path / "latest").resolve()
    kept = {path.name: path.read_bytes() for path in earlier.iterdir()}
    second = start(tmp_path, tiny_llama, max_file_bytes=20_000)
    stdout, stderr = second.communicate(timeout=120)
    stderr = without_progress(stderr)
    assert second.returncode == 1
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert "free some disk space" in stderr or "cannot write to" in stderr
    assert (tmp_path / "latest").resolve() == earlier
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == kept
