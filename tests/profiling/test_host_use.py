"""The cores that a run could use, and the cores that it used."""

import os
from pathlib import Path

import pytest

from roseinfer.profiling.host_use import available_cores, idle_seconds, measured_host


def described(folder: Path, siblings: str) -> Path:
    """Write a description of this process's processors in which `siblings` share a core."""
    for index in os.sched_getaffinity(0):
        topology = folder / f"cpu{index}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings or index}\n")
    return folder


@pytest.mark.parametrize(
    ("quota", "limit"),
    [("max 100000", None), ("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1), ("800000 100000", 8)],
)
def test_a_containers_limit_counts(tmp_path: Path, quota: str, limit: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    ids = len(os.sched_getaffinity(0))
    expected = ids if limit is None else min(ids, limit)
    assert available_cores(described(tmp_path, ""), (tmp_path / "cpu.max",)) == (expected, expected)


def test_the_older_form_of_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(described(tmp_path, ""), (tmp_path / "cpu.cfs_quota_us",)) == (1, 1)
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    ids = len(os.sched_getaffinity(0))
    assert available_cores(described(tmp_path / "more", ""), (tmp_path / "cpu.cfs_quota_us",)) == (ids, ids)


def test_hardware_threads_of_one_core_are_one_core(tmp_path: Path) -> None:
    assert available_cores(described(tmp_path, "0,1"), ()) == (1, len(os.sched_getaffinity(0)))


def test_a_machine_without_a_description_has_a_core_per_processor(tmp_path: Path) -> None:
    ids = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path, ()) == (ids, ids)


def test_a_process_that_sleeps_uses_no_core_and_one_that_computes_does() -> None:
    import time

    with measured_host() as sleeping:
        time.sleep(0.05)
    with measured_host() as computing:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert sleeping.use().cores_used < computing.use().cores_used
    assert computing.use().threads >= 1


def test_idle_time_is_that_of_the_processors_of_this_process(tmp_path: Path) -> None:
    ids = sorted(os.sched_getaffinity(0))
    rows = [f"cpu{index} 5 0 5 700 300 0 0 0 0 0" for index in ids] + ["cpu9999 0 0 0 9 9 0 0 0 0 0", "cpu  1 1 1 1 1"]
    (tmp_path / "stat").write_text("\n".join(rows))
    assert idle_seconds(tmp_path / "stat") == pytest.approx(len(ids) * 1000 / os.sysconf("SC_CLK_TCK"))
    assert idle_seconds(tmp_path / "missing") is None


def test_no_core_is_both_used_and_idle() -> None:
    with measured_host() as meter:
        sum(range(300_000))
    use = meter.use()
    assert use.cores_idle is None or 0 <= use.cores_idle <= use.cores
