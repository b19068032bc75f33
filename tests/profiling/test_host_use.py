"""The cores that a run could use, and the cores that it used."""

import os
from pathlib import Path

import pytest

from roseinfer.disturbance import queued_seconds
from roseinfer.processors import available_cores
from roseinfer.workload.host_use import HostUse, idle_seconds, measured_host, stolen_seconds


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


def test_a_run_that_waited_for_cores_or_lost_them_to_the_host_is_disturbed() -> None:
    def use(**figures: float) -> HostUse:
        return HostUse(threads=2, cores=2, logical_cores=2, cores_used=1.5, cores_idle=0.2, **figures)  # type: ignore[arg-type]

    assert use().disturbance is None
    assert use(threads_waiting=0.05, involuntary_switches=7, stolen_percent=1.0).disturbance is None
    assert use(threads_waiting=0.5, involuntary_switches=70).disturbance == (
        "its threads waited for a core for 25 % of the time (70 times)"
    )
    assert use(stolen_percent=9.0).disturbance == "the host took 9 % of the time of its cores"


def test_waiting_and_stolen_time_are_read_from_the_system(tmp_path: Path) -> None:
    for number, waited_ns in ((1, 2_000_000_000), (2, 500_000_000)):
        (tmp_path / "task" / str(number)).mkdir(parents=True)
        (tmp_path / "task" / str(number) / "schedstat").write_text(f"9999 {waited_ns} 3\n")
    assert queued_seconds(tmp_path / "task") == 2.5
    assert queued_seconds(tmp_path / "missing") is None
    ids = sorted(os.sched_getaffinity(0))
    (tmp_path / "stat").write_text("\n".join(f"cpu{index} 5 0 5 700 300 0 0 40 0 0" for index in ids))
    assert stolen_seconds(tmp_path / "stat") == pytest.approx(len(ids) * 40 / os.sysconf("SC_CLK_TCK"))
