"""Recording a loop that is not an engine's."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_steps import step_names

from roseinfer.config import ProfileConfig
from roseinfer.errors import RoseinferError, TraceError
from roseinfer.profiling.session import ProfileSession, profile_session
from roseinfer.trace import summarize_trace


def run_loop(
    session: ProfileSession, steps: int, fail_at: int | None = None, error: type[BaseException] = ValueError
) -> None:
    for index in range(steps):
        if index == fail_at:
            raise error
        torch.ones(8).sum()
        session.step()


def manifest_of(run_dir: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return parsed


def test_each_cycle_has_a_trace_with_exactly_its_active_steps(tmp_path: Path) -> None:
    config = ProfileConfig(skip_first=1, wait=1, warmup=1, active=2, repeat=2, profile_dir=str(tmp_path))
    with profile_session(config, device="cpu") as session:
        run_loop(session, 12)
        assert session.is_done
    assert session.result is not None
    assert [trace.name for trace in session.result.traces] == [
        "rank0-cycle0.pt.trace.json.gz",
        "rank0-cycle1.pt.trace.json.gz",
    ]
    assert step_names(session.result.traces[0]) == ["ProfilerStep#3", "ProfilerStep#4"]
    assert step_names(session.result.traces[1]) == ["ProfilerStep#7", "ProfilerStep#8"]
    assert (tmp_path / "latest").resolve() == session.run_dir.resolve()
    manifest = manifest_of(session.run_dir)
    assert manifest["warnings"] == []
    assert [cycle["steps"] for cycle in manifest["cycles"]] == [2, 2]
    assert manifest["schedule"]["repeat"] == 2
    assert manifest["config"]["profile"]["active"] == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_recording_writes_a_partial_cycle(tmp_path: Path, error: type[BaseException]) -> None:
    config = ProfileConfig(wait=1, warmup=1, active=5, profile_dir=str(tmp_path))
    with pytest.raises(error), profile_session(config, device="cpu") as session:
        run_loop(session, 10, fail_at=4, error=error)
    cycle = manifest_of(session.run_dir)["cycles"][0]
    assert cycle["steps"] == 2
    assert cycle["partial"] == ("interrupted" if error is KeyboardInterrupt else "the loop failed: ValueError")
    assert "partial" in manifest_of(session.run_dir)["warnings"][0]


@pytest.mark.parametrize("fail_at", [0, 1])
def test_an_exception_before_the_first_recorded_step_leaves_no_run_directory(tmp_path: Path, fail_at: int) -> None:
    config = ProfileConfig(wait=1, warmup=1, active=1, profile_dir=str(tmp_path))
    with pytest.raises(ValueError), profile_session(config, device="cpu") as session:  # noqa: PT011
        run_loop(session, 10, fail_at=fail_at)
    assert session.result is None
    assert list(tmp_path.iterdir()) == []


def test_a_loop_that_ends_early_leaves_a_partial_cycle(tmp_path: Path) -> None:
    with profile_session(ProfileConfig(active=5, profile_dir=str(tmp_path)), device="cpu") as session:
        run_loop(session, 4)
    assert not session.is_done
    assert manifest_of(session.run_dir)["cycles"][0]["partial"] == "the loop ended before the window was full"


def test_a_second_profiler_is_refused_and_the_first_one_continues(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as outer:
        torch.ones(2).sum()
        inner = profile_session(ProfileConfig(profile_dir=str(tmp_path)), device="cpu")
        with pytest.raises(RoseinferError, match="another torch profiler is recording"), inner:
            pass
    assert any(event.key == "aten::sum" for event in outer.key_averages())
    assert list(tmp_path.iterdir()) == []


def test_profiler_options_reach_the_trace(tmp_path: Path) -> None:
    config = ProfileConfig(wait=0, warmup=0, active=1, record_shapes=True, profile_dir=str(tmp_path))
    with profile_session(config, device="cpu") as session:
        run_loop(session, 1)
    assert session.result is not None
    events = json.loads(gzip.decompress(session.result.traces[0].read_bytes()))["traceEvents"]
    sums = [event for event in events if event.get("name") == "aten::sum"]
    assert sums[0]["args"]["Input Dims"]


def test_the_profiler_prints_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with profile_session(ProfileConfig(profile_dir=str(tmp_path)), device="cpu") as session:
        run_loop(session, 6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_loop_that_is_too_short_to_record_leaves_a_result_that_says_so(tmp_path: Path, steps: int) -> None:
    config = ProfileConfig(wait=1, warmup=1, active=3, profile_dir=str(tmp_path))
    with profile_session(config, device="cpu") as session:
        run_loop(session, steps)
    result = session.result
    assert result is not None
    assert result.traces == []
    count = "1 step" if steps == 1 else f"{steps} steps"
    assert result.shortfall is not None
    assert result.shortfall.startswith(f"no step was recorded: the loop ended after {count}, and the schedule takes 5 ")
    assert "run more steps, or shorten the schedule" in result.shortfall
    assert result.summary.verdict.kind == "empty"
    assert result.summary.verdict.headline == f"N{result.shortfall[1:]}."
    assert manifest_of(session.run_dir)["warnings"] == [result.shortfall]
    assert not (tmp_path / "latest").exists()
    with pytest.raises(TraceError, match="no step was recorded: the loop ended after"):
        summarize_trace(session.run_dir)


def test_a_result_says_how_much_of_the_schedule_is_missing(tmp_path: Path) -> None:
    config = ProfileConfig(skip_first=1, wait=0, warmup=1, active=2, repeat=2, profile_dir=str(tmp_path))
    with profile_session(config, device="cpu") as session:
        run_loop(session, 6)  # skip, warm up, 2 recorded, warm up, 1 recorded
    assert session.result is not None
    assert session.result.shortfall is not None
    assert session.result.shortfall.startswith(
        "3 of 4 steps were recorded: the loop ended after 6 steps, and the schedule"
    )
    assert session.result.shortfall in manifest_of(session.run_dir)["warnings"]
    assert len(session.result.traces) == 2
    with profile_session(config, device="cpu") as session:
        run_loop(session, 7)
    assert session.result is not None
    assert session.result.shortfall is None
    assert manifest_of(session.run_dir)["warnings"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"active": 0}, "invalid active 0: give an integer of at least 1"),
        ({"wait": -1}, "invalid wait -1: give an integer of at least 0"),
        ({"phase": "decode"}, "invalid phase 'decode': only an engine run has phases, a session needs phase 'any'"),
        ({"phase": "late"}, "invalid phase 'late': give one of any, prefill, decode, steady"),
    ],
)
def test_python_refuses_the_settings_that_the_command_line_refuses(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with (
        pytest.raises(RoseinferError) as caught,
        profile_session(ProfileConfig(profile_dir=str(tmp_path), **settings), device="cpu"),
    ):
        pass
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []
