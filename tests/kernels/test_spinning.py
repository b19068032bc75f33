"""How long CPU threads spin: the choice from scripted measurements, and the idle threads that make it."""

import os
import subprocess
import sys

import pytest

from roseinfer.kernels.cpu import spinning
from roseinfer.kernels.cpu.spinning import CHOICES, SpinControl, spin_control


class Machine:
    """A scripted clock with the seconds in which threads waited and computed, and a count of open crowds."""

    def __init__(self) -> None:
        self.now_s = self.queued_s = self.used_s = 0.0
        self.crowds = self.opened = 0
        self.control = SpinControl(
            self.crowd, queued_s=lambda: self.queued_s, used_s=lambda: self.used_s, clock=lambda: self.now_s
        )
        self.control.step()

    def crowd(self) -> "Machine":
        self.crowds += 1
        self.opened += 1
        return self

    def close(self) -> None:
        self.crowds -= 1

    def run(self, seconds: float, *, waiting_percent: float, use: float = 2.0, step_s: float = 0.01) -> None:
        """Run steps in which two threads could run all the time, and waited for a core for a share of it."""
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            self.queued_s += use * step_s * waiting_percent / 100
            self.used_s += use * step_s * (1 - waiting_percent / 100)
            self.control.step()


def test_threads_spin_alone_and_sleep_beside_others() -> None:
    machine = Machine()
    machine.run(10, waiting_percent=0.5)
    assert machine.control.spins
    machine.run(1.1, waiting_percent=30)
    assert not machine.control.spins
    machine.run(20, waiting_percent=3)
    assert not machine.control.spins, "spinning would make it 30 again"
    machine.run(5, waiting_percent=0.2)
    assert machine.control.spins
    assert (machine.crowds, machine.opened) == (0, 1)


def test_one_calm_moment_does_not_start_the_spinning_again() -> None:
    machine = Machine()
    for _ in range(20):
        machine.run(1, waiting_percent=30)
        machine.run(1, waiting_percent=0)
    assert not machine.control.spins
    assert machine.opened == 1


def test_a_machine_without_work_says_nothing() -> None:
    machine = Machine()
    machine.run(1, waiting_percent=30)
    machine.run(60, waiting_percent=0, use=0.001)
    assert not machine.control.spins
    machine = Machine()
    machine.run(60, waiting_percent=100, use=0.001)
    assert machine.control.spins


def test_steps_of_seconds_are_measured_too() -> None:
    machine = Machine()
    machine.run(10, waiting_percent=30, step_s=2)
    assert not machine.control.spins


def test_an_unknown_wait_leaves_the_threads_alone() -> None:
    control = SpinControl(pytest.fail, queued_s=lambda: None)
    for _ in range(3):
        control.step()
    assert control.spins


@pytest.mark.parametrize("name", CHOICES)
def test_a_users_choice_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    spin_control.cache_clear()
    assert spin_control() is None
    spin_control.cache_clear()


PROBE = """
import os, time, torch
from roseinfer.kernels.cpu.spinning import IdleThreads, _crowd, _loaded_libgomp

def wait_for(threads):
    for _ in range(200):
        if len(os.listdir("/proc/self/task")) == threads:
            return
        time.sleep(0.05)
    raise SystemExit(f"{os.listdir('/proc/self/task')} are not {threads} threads")

torch.set_num_threads(2)
torch.ones(1 << 20).mul_(2)
before, library = len(os.listdir("/proc/self/task")), _loaded_libgomp()
idle = IdleThreads(library, 5)
wait_for(before + 5)
torch.ones(1 << 20).mul_(2)
wait_for(before + 5)
idle.close()
wait_for(before)
assert _crowd() + 2 > len(os.sched_getaffinity(0))
"""


@pytest.mark.skipif(spinning._loaded_libgomp() is None, reason="torch has no GNU OpenMP here")
def test_idle_threads_start_and_end() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*CHOICES, "OMP_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", PROBE], env=environment, check=True, timeout=120)
