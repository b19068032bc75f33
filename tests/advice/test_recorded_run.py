"""A run directory is read as a run that can be run again."""

import json
from pathlib import Path
from typing import Any

import pytest

from roseinfer.advice.recorded_run import read_config, read_run
from roseinfer.errors import UsageError
from roseinfer.trace import summarize_trace

EMPTY = Path(__file__).parents[1] / "trace" / "data" / "verdicts" / "empty.json"


def run_dir(folder: Path, *, device: str = "CPU, 2 threads, AVX2", **tables: dict[str, Any]) -> Path:
    config = {"engine": {}, "sampling": {}, "workload": {}, "profile": {}} | tables
    manifest = {
        "config": config,
        "device": device,
        "limits": {"max_batch_size": 8, "max_batch_tokens": 2048},
        "host": {"threads": 1, "cores": 2},
        "model": {"name": "tiny", "parameters": 1000},
        "report": {"requests": 6, "prompt_tokens": 600, "elapsed_total_s": 2.5},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_limits_and_device_are_those_that_the_run_had(tmp_path: Path) -> None:
    run = read_run(run_dir(tmp_path, engine={"max_batch_tokens": 512}), "--try")
    assert (run.config.engine.max_batch_size, run.config.engine.max_batch_tokens) == (8, 512)
    assert run.config.engine.device == "cpu"
    assert not run.is_gpu
    assert run.pass_s == 2.5
    assert read_config(tmp_path, "--rerun").engine.max_batch_size is None
    gpu = read_run(run_dir(tmp_path, device="NVIDIA H100"), "--try")
    assert gpu.is_gpu
    assert gpu.config.engine.device == "auto"


def test_a_drawn_load_has_as_many_requests_as_before(tmp_path: Path) -> None:
    run = read_run(run_dir(tmp_path, workload={"prompt_length": 100, "turns": 3}), "--try")
    assert run.config.workload.num_requests == 2
    now = run.situation(0, summarize_trace(EMPTY))
    assert (now.requests, now.prompt_tokens, now.cores, now.shares_prefixes) == (2, 600, 2, True)
    given = read_run(run_dir(tmp_path, workload={"prompt_length": 100, "num_requests": 6}), "--try")
    assert given.config.workload.num_requests == 6
    assert not given.situation(0, summarize_trace(EMPTY)).shares_prefixes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--try takes a run directory of `roseinfer profile`"),
        ("{", "cannot run"),
        ('{"config": {"engine": {"no_such_key": 1}}}', "no_such_key"),
        ('{"config": {"profile": {}}}', "profile_session recorded it"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_run(tmp_path, "--try")


def test_prompts_from_stdin_cannot_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its prompts came from stdin"):
        read_run(run_dir(tmp_path, workload={"prompts_file": "-"}), "--try")
