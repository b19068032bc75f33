"""The `summarize` command: its output formats, its comparisons, its exit codes and its errors."""

import gzip
from pathlib import Path

import case_traces
import msgspec
import pytest
from rich.console import Console
from step_traces import steps
from traces import MATMUL, TUTORIAL, write

from roseinfer.cli import console
from roseinfer.cli.app import run
from roseinfer.trace import Summary, summarize_trace


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Run `roseinfer summarize ...` in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr("sys.argv", ["roseinfer", "summarize", *map(str, args)])
    monkeypatch.setattr(console, "stdout", Console(width=100))
    code = run()
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command_prints_one_json_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(monkeypatch, capfd, TUTORIAL, "--json")
    assert code == 0
    assert msgspec.json.decode(out, type=Summary) == summarize_trace(TUTORIAL)


@pytest.mark.parametrize(
    "text",
    ['{"traceEvents": []}', "[]", '[{"ph": "X", "cat": "jax", "name": "f", "pid": 1, "tid": 1, "ts": 1, "dur": 2}]'],
)
def test_a_trace_without_torch_profiler_events_fails_and_says_why(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text(text)
    code, out, err = command(monkeypatch, capfd, tmp_path / "t.json", "--json")
    assert code == 1
    assert msgspec.json.decode(out, type=Summary).verdict.kind == "empty"
    assert len(err.strip().splitlines()) == 1
    assert "t.json holds no operators, spans or GPU events: give a trace of torch.profiler" in err


def test_the_command_prints_a_report(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(monkeypatch, capfd, MATMUL, "--top", 3)
    assert code == 0
    assert out.startswith("Verdict\n  Healthy")
    code, out, _ = command(monkeypatch, capfd, MATMUL, "--markdown")
    assert out.startswith("### `gpu_bound_matmul_h200.json.gz`")
    assert "\n**Verdict: Healthy" in out


def test_fail_above_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old.json", steps([100, 101, 99, 100]))
    new = write(tmp_path / "new.json", steps([120, 121, 119, 120]))
    assert command(monkeypatch, capfd, new, "--baseline", old, "--fail-above", "5%")[0] == 3
    assert command(monkeypatch, capfd, new, "--baseline", old, "--fail-above", "30")[0] == 0
    assert command(monkeypatch, capfd, new, "--baseline", old)[0] == 0


def test_comparing_with_nothing_is_one_line_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    new = write(tmp_path / "new.json", steps([100, 101, 99]))
    (tmp_path / "old.json").write_text('{"traceEvents": []}')
    code, out, err = command(monkeypatch, capfd, new, "--baseline", tmp_path / "old.json", "--fail-above", "5%")
    assert (code, out) == (2, "")
    assert "nothing to compare" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("form", ["--json", "--markdown", None])
def test_every_output_format_shows_the_warnings_of_a_comparison(
    form: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    new = write(tmp_path / "new.json", steps([100, 101, 99]))
    old = write(tmp_path / "old.json", steps([100, 101, 99], phase="decode") + steps([50], phase="prefill"))
    page = tmp_path / "page.html"
    args = [form] if form else []
    code, out, _ = command(monkeypatch, capfd, new, "--baseline", old, "--html", page, *args)
    assert code == 0
    assert "the mix of phases differs" in out
    assert "the mix of phases differs" in page.read_text()


def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert command(monkeypatch, capfd, TUTORIAL, "--html", page)[0] == 0
    assert "build_batched_past" in page.read_text()
    code, _, err = command(monkeypatch, capfd, TUTORIAL, "--html", tmp_path / "no" / "page.html")
    assert code == 2
    assert "its folder does not exist" in err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["missing.json"], 1),
        ([TUTORIAL, "--fail-above", "5%"], 2),
        ([TUTORIAL, "--baseline", TUTORIAL, "--fail-above", "much"], 2),
        ([TUTORIAL, "--json", "--markdown"], 2),
        ([TUTORIAL, "--top", "0"], 2),
        ([TUTORIAL, "--sort-by", "name"], 2),
    ],
)
def test_wrong_calls_are_one_line(
    args: list[object], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found, out, err = command(monkeypatch, capfd, *args)
    assert found == code
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_a_truncated_file_says_so_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.json"
    data = gzip.decompress(TUTORIAL.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    code, out, _ = command(monkeypatch, capfd, path)
    assert code == 0
    assert "The file is incomplete" in out


def test_fail_above_refuses_incomplete_traces_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "whole.json", case_traces.busy())
    broken = write(tmp_path / "broken.json", case_traces.blind_wait())
    for new, old in ((broken, broken), (whole, broken), (broken, whole)):
        code, _, err = command(monkeypatch, capfd, new, "--baseline", old, "--fail-above", "5%")
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert "broken.json" in err
    assert command(monkeypatch, capfd, broken, "--baseline", broken)[0] == 0


@pytest.mark.parametrize(
    ("group_by", "title", "first"),
    [("op", "Operators", "aten::mm"), ("kernel", "GPU events by name", "nvjet"), ("category", "category", "matmul")],
)
def test_the_work_of_a_gpu_is_shown_in_groups(
    group_by: str, title: str, first: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(monkeypatch, capfd, MATMUL, "--group-by", group_by)
    table = out[out.index(title) :].splitlines()
    assert (code, "Top operators and kernels" in out) == (0, False)
    assert first in table[3]


@pytest.mark.parametrize(
    ("group_by", "option"), [("shape", "record_shapes"), ("module", "with_stack"), ("stack", "with_stack")]
)
def test_groups_that_the_recording_lacks_are_refused(
    group_by: str, option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capfd, MATMUL, "--group-by", group_by)
    assert (code, out) == (1, "")
    assert f"record with {option}=True" in err
    assert command(monkeypatch, capfd, MATMUL, "--group-by", group_by, "--json")[0] == 2


def test_peaks_are_refused_for_a_trace_without_shapes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capfd, MATMUL, "--peak", "989,4.8")
    assert (code, out) == (1, "")
    assert "has no shapes of operators; record with record_shapes=True" in err
    code, _, err = command(monkeypatch, capfd, MATMUL, "--peak", "fast")
    assert (code, "invalid --peak 'fast'" in err) == (2, True)


def test_a_capture_trace_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capfd, MATMUL, "--capture", tmp_path / "none.json")
    assert (code, out, len(err.strip().splitlines())) == (1, "", 1)
