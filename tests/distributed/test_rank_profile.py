"""A profile of two ranks records the same steps of both, and its summary is what their traces say."""

import gzip
import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from roseinfer.config import EngineConfig, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.distributed.rank_channel import RankChannel
from roseinfer.engine.factory import build_engine
from roseinfer.engine.rank_worker import RankWorker
from roseinfer.profiling.profile_run import ProfileResult, profile_run
from roseinfer.profiling.rank_profile import begin_step, end_step
from roseinfer.profiling.recorder import Recorder
from roseinfer.trace import summarize_trace
from roseinfer.trace.comparing.trace_comparison import compare
from roseinfer.workload.load_plan import at_once

pytestmark = pytest.mark.usefixtures("single_threaded")


def profiled(model: Path, folder: Path, ranks: int, **profile: Any) -> ProfileResult:
    engine = build_engine(
        EngineConfig(model=str(model), device="cpu", dtype="float32", tensor_parallel=ranks, overlap=True)
    )
    config = RunConfig(
        sampling=SamplingParams(max_new_tokens=10, stop_on_eos=False),
        workload=WorkloadConfig(mode="online"),
        profile=ProfileConfig(profile_dir=str(folder), **profile),
    )
    try:
        return profile_run(engine, at_once([[1, 2, 3], [4, 5]], config.sampling), config)
    finally:
        engine.close()


def events_of(trace: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sorted((event for event in events if "dur" in event), key=lambda event: event["ts"])


def test_both_ranks_record_the_same_steps_and_the_summary_has_their_waits(tiny_llama: Path, tmp_path: Path) -> None:
    schedule: dict[str, Any] = {"wait": 1, "warmup": 1, "active": 3, "repeat": 2}
    session = profiled(tiny_llama, tmp_path, 2, **schedule).session
    names = [f"rank{rank}-cycle{cycle}.pt.trace.json.gz" for rank in range(2) for cycle in range(2)]
    assert sorted(session.manifest.traces) == names
    assert session.manifest.world_size == 2
    described = json.loads((session.run_dir / "rank1-manifest.json").read_bytes())
    assert (described["rank"], described["world_size"], described["traces"]) == (1, 2, names[2:])
    assert [cycle["steps"] for cycle in described["cycles"]] == [3, 3]

    transfer_us: dict[str, float] = defaultdict(float)
    wait_us: dict[tuple[str, int], float] = defaultdict(float)
    for cycle in range(2):
        ranks = [events_of(session.run_dir / f"rank{rank}-cycle{cycle}.pt.trace.json.gz") for rank in range(2)]
        steps = [[e["name"] for e in events if e["name"].startswith("roseinfer.step[")] for events in ranks]
        assert steps[0] == steps[1]
        assert len(steps[0]) == 3
        collectives = [[e for e in events if e["name"].startswith("gloo:")] for events in ranks]
        assert len(collectives[0]) == len(collectives[1]) == 3 * (2 * 2 + 1), "two joins per layer, and the draw"
        for one, other in zip(*collectives, strict=True):
            assert one["name"] == other["name"]
            shortest = min(one["dur"], other["dur"])
            transfer_us[one["name"]] += shortest
            for rank, event in enumerate((one, other)):
                wait_us[one["name"], rank] += event["dur"] - shortest
    summary = session.summary
    assert summary.trace.ranks == [0, 1]
    assert (summary.steps.count, summary.steps.rank_steps) == (6, 12), "two cycles of three steps, on each rank"
    assert summary.job is not None
    assert [step.step for step in summary.job.steps] == list(range(6))
    assert {each.name for each in summary.collectives} == set(transfer_us)
    for each in summary.collectives:
        assert each.transfer_ms == pytest.approx(transfer_us[each.name] / 1e3, abs=1e-3)
        for rank in range(2):
            assert each.wait_ms_by_rank[rank] == pytest.approx(wait_us[each.name, rank] / 1e3, abs=1e-3)


def test_a_run_of_one_rank_is_a_baseline_for_two(tiny_llama: Path, tmp_path: Path) -> None:
    alone, both = (
        summarize_trace(profiled(tiny_llama, tmp_path / str(ranks), ranks, phase="decode").session.run_dir)
        for ranks in (1, 2)
    )
    comparison = compare(both, alone).comparison
    assert comparison is not None
    scaling = comparison.scaling
    assert scaling is not None
    assert (scaling.ranks_before, scaling.ranks_after) == (1, 2)
    assert sum(part.lost_ms for part in scaling.lost) == pytest.approx(scaling.new_ms - scaling.ideal_ms, abs=1e-3)


class RunningLaunch:
    """A launch whose tokens are not there yet."""

    def tokens(self) -> list[int]:
        raise AssertionError("waited for a launch that still runs")


def test_a_rank_begins_to_record_a_step_while_the_one_before_still_runs(tmp_path: Path) -> None:
    store = torch.distributed.HashStore()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = RankWorker(RankChannel(ours), store, 1, 2, torch.device("cpu"))
        worker._unread = RunningLaunch()  # type: ignore[assignment]
        with Recorder(ProfileConfig(), torch.device("cpu"), tmp_path, rank=1) as recorder:
            worker.state["recorder"] = recorder, ProfileConfig()
            begin_step(worker, matches=True, label="decode")
            end_step(worker)
            assert recorder.num_steps == 1
    assert worker.step_label == "decode"
