"""Threads wait for each other the longer way only where nothing else wants the processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roseinfer.thread_waiting import CHOICES, SPIN_COUNT_SHARED, others_run

PRINT = "import os, sys; import roseinfer; roseinfer.EngineConfig; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("load", "expected"),
    [("0.50 0.31 0.29 1/124 18386", False), ("0.00 0.00 0.00 2/124 18386", True), ("no load", True), (None, True)],
)
def test_a_running_thread_of_another_program_is_seen(tmp_path: Path, load: str | None, expected: bool) -> None:
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    assert others_run(tmp_path / "loadavg") is expected


def spin_count(**changes: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES} | changes
    command = [sys.executable, "-c", PRINT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_beside_a_program_that_computes_threads_spin_for_a_shorter_time() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        try:
            assert spin_count() == SPIN_COUNT_SHARED
        finally:
            busy.kill()


def test_the_users_choice_stays() -> None:
    assert spin_count(GOMP_SPINCOUNT="7") == "7"
    assert spin_count(OMP_WAIT_POLICY="passive") == "None"
    assert spin_count() in ("None", SPIN_COUNT_SHARED)
