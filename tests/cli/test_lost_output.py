"""Results are not lost to their output: encodings, full disks, files that cannot be written, readers that leave."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roseinfer.cli import app, safe_encoding, signals
from roseinfer.cli.bench import benchmarking
from roseinfer.cli.generate.answer_rows import open_lines
from roseinfer.config import SamplingParams
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.kernels.cpu import compiler
from roseinfer.whole_file import check_target, whole_file, write_whole
from roseinfer.workload.answer import Answer
from roseinfer.workload.workload_request import WorkloadRequest

BENCH = ("--prompt-length", "8", "--max-new-tokens", "2", "--repeats", "1", "--dtype", "float32", "--quiet")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["roseinfer", *map(str, arguments)])
        code = app.run()
        return code, *capfd.readouterr()

    return call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_encoding_lacks_is_written_in_another_way(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    safe_encoding.replace_missing_characters()
    stream.write("1.5 ± 0.1 … ▇ é 漢")
    stream.flush()
    assert (
        raw.getvalue().decode(encoding)
        == {
            "ascii": "1.5 +- 0.1 ... # \\xe9 \\u6f22",
            "latin-1": "1.5 ± 0.1 ... # é \\u6f22",
            "utf-8": "1.5 ± 0.1 … ▇ é 漢",
        }[encoding]
    )


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, b"old")
    with pytest.raises(TypeError), whole_file(target) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert target.read_bytes() == b"old"
    with whole_file(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_has_the_usual_permissions_and_keeps_its_own(tmp_path: Path) -> None:
    plain, target, link = tmp_path / "plain", tmp_path / "file", tmp_path / "link"
    plain.touch()
    write_whole(target, b"")
    assert target.stat().st_mode == plain.stat().st_mode
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, b"x")
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.read_bytes() == b"x"


def test_a_device_is_written_to_directly() -> None:
    write_whole(Path("/dev/null"), b"x")
    with pytest.raises(RoseinferError, match=r"^cannot write /dev/full: No space left on device$"):
        write_whole(Path("/dev/full"), b"x")


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "mkstemp"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "file"
    write_whole(target, b"old")

    def fails(*_: object, **__: object) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    class BrokenFile(io.FileIO):
        def write(self, _: object) -> int:
            return int(fails())

    where = {
        "fsync": "os.fsync",
        "replace": "pathlib.Path.replace",
        "write": "os.fdopen",
        "mkstemp": "tempfile.mkstemp",
    }[call]
    monkeypatch.setattr(where, BrokenFile if call == "write" else fails)
    with pytest.raises(RoseinferError, match=f"^cannot write {target}: Input/output error$"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_is_checked_before_the_work(tmp_path: Path) -> None:
    check_target(tmp_path / "file", "--plot")
    with pytest.raises(UsageError, match=r"^invalid --html .*none/file: its folder does not exist"):
        check_target(tmp_path / "none" / "file", "--html")
    with pytest.raises(UsageError, match="it is a folder: name a file"):
        check_target(tmp_path, "--html")


def test_results_of_a_benchmark_come_before_files_that_cannot_be_written(
    run: Callable[..., tuple[int, str, str]], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, *_: object) -> None:
        raise RoseinferError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(benchmarking, "draw_plot", fails)
    saved, plot = tmp_path / "saved.jsonl", tmp_path / "plot.svg"
    call = ("bench", "--model", tiny_llama, *BENCH, "--json", "--plot", plot)
    code, out, err = run(*call, "--save-requests", "/dev/full")
    assert code == 1
    assert len(json.loads(out)["runs"]) == 1
    assert err.splitlines() == [
        "error: cannot write /dev/full: No space left on device",
        f"error: cannot write {plot}: No space left on device",
    ]
    code, out, err = run(*call, "--save-requests", saved)
    assert code == 1
    assert len(saved.read_text().splitlines()) == json.loads(out)["runs"][0]["requests"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), "cannot write: Input/output error"),
        (MemoryError(), "no memory is left: choose a smaller model"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "no memory is left: choose"),
    ],
)
def test_a_machine_without_room_is_one_line(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("roseinfer.cli.commands.LazyCommands._load", fails)
    code, out, err = run("bench")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_an_error_that_is_a_bug_is_not_hidden(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("shape")

    monkeypatch.setattr("roseinfer.cli.commands.LazyCommands._load", fails)
    with pytest.raises(RuntimeError, match="shape"):
        run("bench")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_a_command_is_its_exit_code(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    # The tests may run under nohup, where SIGHUP is ignored, and would stay so.
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(signals._Received, "number", signal.SIGINT)
    monkeypatch.setattr("roseinfer.cli.commands.LazyCommands._load", lambda *_: os.kill(os.getpid(), number))
    try:
        signals.end_like_ctrl_c()
        assert run("bench")[0] == code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals.end_like_ctrl_c()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_an_interrupted_compilation_leaves_no_process_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler here is a script that starts a process of its own, writes a temporary file, and waits."""
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\nsleep 600 &\necho $! > "$TMPDIR/$$.pid"\ncp "$TMPDIR/$$.pid" "$PIDS"\nwait\n')
    script.chmod(0o755)
    pids, cache = tmp_path / "pids", tmp_path / "cache"
    pids.mkdir()
    monkeypatch.setenv("PIDS", str(pids))
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(cache))
    communicate = subprocess.Popen.communicate

    def interrupted(process: Any, *arguments: Any, **options: Any) -> Any:
        if process.args[0] != str(script):
            return communicate(process, *arguments, **options)
        deadline = time.monotonic() + 30
        while len(list(pids.iterdir())) < len(compiler.DTYPE_NAMES) and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiler.compile_library(compiler.library_path())
    assert list(cache.iterdir()) == []
    started = [int(path.read_text()) for path in pids.iterdir()]
    assert len(started) == len(compiler.DTYPE_NAMES)
    deadline = time.monotonic() + 30
    while any(_runs(number) for number in started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_runs(number) for number in started)


def _runs(process_id: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def refused(prompt: str = "a") -> Answer:
    return Answer(WorkloadRequest(id=1, prompt=prompt, params=SamplingParams()), error="refused")


def test_a_file_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    name = str(tmp_path / "answers.jsonl")
    with open_lines(name, resume=False) as lines:
        lines.write(refused(), has_text=True)
        for resume in (True, False):
            with pytest.raises(UsageError, match=r"^another process writes to .*answers\.jsonl: wait"):
                open_lines(name, resume=resume).__enter__()
    with open_lines(name, resume=True) as lines:
        assert list(lines.answered) == [1]


def test_answers_are_on_the_disk_when_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.stat().st_size))
    path = tmp_path / "answers.jsonl"
    with open_lines(str(path), resume=False) as lines:
        lines.write(refused(), has_text=True)
    assert synced == [path.stat().st_size]
    monkeypatch.setattr("roseinfer.workload.answer.rows", interrupted)
    with pytest.raises(KeyboardInterrupt), open_lines(str(path), resume=True) as lines:
        lines.write(refused(), has_text=True)
    assert synced[1:] == [path.stat().st_size]
