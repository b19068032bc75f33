"""Lines that libraries print on their own: panics of Rust are one line to a user, and the profiler's notices none."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import copied_with

from roseinfer.cli import app
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError, UsageError
from roseinfer.native_stderr import filtered_stderr, without_panic_reports
from roseinfer.profiling.stderr_filter import without_chatter

PANIC = "thread '<unnamed>' (15374) panicked at src/normalizers/mod.rs:143:26:\nPrecompiled: Error\nstack backtrace:\n"

pytestmark = pytest.mark.usefixtures("single_threaded")


def write(text: str) -> None:
    os.write(2, text.encode())


def test_only_what_is_kept_is_written_and_later_lines_are_not_filtered(capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        with filtered_stderr(lambda text: text.replace(b"secret\n", b"")):
            write(f"{number}\nsecret\n")
        write("secret\n")
    assert capfd.readouterr().err == "".join(f"{number}\nsecret\n" for number in range(3))


def test_an_error_inside_passes_and_loses_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(ZeroDivisionError), filtered_stderr(bytes.upper):
        write("before\n")
        raise ZeroDivisionError
    write("after\n")
    assert capfd.readouterr().err == "BEFORE\nafter\n"


def test_one_context_filters_at_a_time(capfd: pytest.CaptureFixture[str]) -> None:
    def other() -> None:
        with filtered_stderr(lambda _: b""):
            write("thread\n")

    with filtered_stderr(bytes.upper):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with filtered_stderr(lambda _: b""):
            write("inner\n")
    assert capfd.readouterr().err == "THREAD\nINNER\n"


def test_without_a_descriptor_nothing_is_filtered() -> None:
    code = (
        "import os; from roseinfer.native_stderr import filtered_stderr\n"
        "os.close(2)\n"
        "with filtered_stderr(bytes.upper): print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert done.stdout == "done\n"


def test_a_forked_process_has_a_buffer_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with filtered_stderr(bytes.upper):
        write("parent\n")
        if (child := os.fork()) == 0:
            from roseinfer import native_stderr

            native_stderr._filtering.release()  # the fork inherits the lock of the outer context
            with filtered_stderr(lambda _: b""):
                write("child\n")
            os._exit(0)
        os.waitpid(child, 0)
    assert capfd.readouterr().err == "PARENT\n"


def test_what_precedes_a_panic_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with without_panic_reports():
        write(f"a warning\n{PANIC}")
    with without_panic_reports():
        write(f"\n{PANIC}")
    with without_panic_reports():
        write("about a thread 'x' that panicked at noon\n")
    assert capfd.readouterr().err == "a warning\nabout a thread 'x' that panicked at noon\n"


def test_the_profilers_own_lines_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """The second line is printed by builds of torch for CUDA on a machine without a GPU."""
    file = "CudaDeviceProperties.cpp"
    with without_chatter():
        write("USDT: attached\n")
        write(f"ERROR:2026-02-03 9:38:39 30:31 {file}:26] cudaGetDeviceCount failed with code 100\n")
        write(f"ERROR:2026-02-03 9:38:39 30:31 {file}:40] cudaGetDeviceProperties failed\n")
    assert capfd.readouterr().err == f"ERROR:2026-02-03 9:38:39 30:31 {file}:40] cudaGetDeviceProperties failed\n"


def changed_tokenizer(model: Path, folder: Path, **parts: Any) -> Path:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    return copied_with(model, folder, {"tokenizer.json": json.dumps(tokenizer | parts)})


def test_a_tokenizer_file_at_which_the_library_panics_is_one_line(
    tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = changed_tokenizer(
        tiny_llama, tmp_path / "model", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    )
    with pytest.raises(ModelError, match=r"^cannot read .*tokenizer\.json: Precompiled: .*PanicException"):
        build_engine(EngineConfig(model=str(model), dtype="float32", device="cpu"))
    assert capfd.readouterr().err == ""


@pytest.fixture
def backtracking(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model whose tokenizer splits text by a pattern that gives up at some texts, and then panics."""
    split = {"type": "Split", "pattern": {"Regex": "(a|a?)+$"}, "behavior": "Isolated", "invert": False}
    parts = [split, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]
    return changed_tokenizer(tiny_llama, tmp_path / "model", pre_tokenizer={"type": "Sequence", "pretokenizers": parts})


def test_a_text_at_which_the_tokenizer_panics_is_refused_alone(
    backtracking: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = build_engine(EngineConfig(model=str(backtracking), dtype="float32", device="cpu"))
    with pytest.raises(UsageError, match=r"^cannot read the prompt: Onig: .* \(PanicException\); shorten it"):
        engine.generate("a" * 60 + "b", SamplingParams(max_new_tokens=2))
    assert engine.generate("abc", SamplingParams(max_new_tokens=2))
    assert capfd.readouterr().err == ""


def test_a_request_at_which_the_tokenizer_panics_ends_no_other(
    backtracking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("abc", "a" * 60 + "b", "abd")))
    call = ["generate", "--model", str(backtracking), "--dtype", "float32", "--max-new-tokens", "2", "--quiet"]
    monkeypatch.setattr("sys.argv", ["roseinfer", *call, "--input", str(requests)])
    run: Callable[[], int] = app.run
    assert run() == 1
    out, err = capfd.readouterr()
    assert ["error" in json.loads(line) for line in out.splitlines()] == [False, True, False]
    assert "panicked" not in err
    assert len(err.splitlines()) == 1
