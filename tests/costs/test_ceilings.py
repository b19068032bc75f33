"""Measured peak rates of a device: cached, and measured again if the cache key or the file is invalid."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from roseinfer.cache_folder import cache_folder
from roseinfer.costs import ceilings as module
from roseinfer.costs.ceilings import Ceilings, ceilings, measure_ceilings

CPU = torch.device("cpu")


@pytest.fixture
def measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Ceilings]:
    """Replace the measurement by a fake with increasing rates; return the list of measurements made.

    The cache folder is in tmp_path.
    """
    made: list[Ceilings] = []

    def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
        made.append(Ceilings(100.0 + len(made), 1000.0))
        return made[-1]

    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "measure_ceilings", measure)
    monkeypatch.setattr(module, "measure_bandwidth", lambda device: 50.0)
    return made


def test_a_second_call_reads_the_cached_rates(measurements: list[Ceilings]) -> None:
    assert ceilings(CPU, torch.float32) == ceilings(CPU, torch.float32) == measurements[0]
    assert len(measurements) == 1


def test_the_bandwidth_of_a_cpu_that_was_busy_rises(
    measurements: list[Ceilings], monkeypatch: pytest.MonkeyPatch
) -> None:
    ceilings(CPU, torch.float32)
    monkeypatch.setattr(module, "measure_bandwidth", lambda device: 300.0)
    assert ceilings(CPU, torch.float32) == Ceilings(300.0, 1000.0)
    monkeypatch.setattr(module, "measure_bandwidth", lambda device: 50.0)
    assert ceilings(CPU, torch.float32) == Ceilings(300.0, 1000.0)
    assert len(measurements) == 1


def test_each_dtype_and_number_of_threads_is_measured(
    measurements: list[Ceilings], monkeypatch: pytest.MonkeyPatch
) -> None:
    ceilings(CPU, torch.float32)
    ceilings(CPU, torch.bfloat16)
    monkeypatch.setattr(module, "num_threads", lambda: 99)
    ceilings(CPU, torch.float32)
    assert len(measurements) == 3


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: text.replace("float32", "float16"), str.upper])
def test_a_truncated_file_or_one_with_another_key_is_replaced(
    measurements: list[Ceilings], tmp_path: Path, damage: Callable[[str], str]
) -> None:
    ceilings(CPU, torch.float32)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(damage(kept.read_text()))
    assert ceilings(CPU, torch.float32) == measurements[1]
    assert ceilings(CPU, torch.float32) == measurements[1]


def test_fresh_measures_again_and_replaces_the_cached_rates(measurements: list[Ceilings]) -> None:
    ceilings(CPU, torch.float32)
    assert ceilings(CPU, torch.float32, fresh=True) == ceilings(CPU, torch.float32) == measurements[1]


def test_a_folder_that_cannot_be_created_is_not_an_error(
    measurements: list[Ceilings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path / "file"))
    assert ceilings(CPU, torch.float32) == measurements[0]
    assert ceilings(CPU, torch.float32) == measurements[1]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROSEINFER_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/roseinfer")
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", "/own")
    assert cache_folder() == Path("/own")


def test_a_cpu_is_measured_in_about_a_second() -> None:
    rates = measure_ceilings(CPU, torch.float32)
    assert 1e8 < rates.copy_bytes_per_s < 1e13
    assert 1e8 < rates.flops_per_s < 1e15


def test_a_copy_counts_what_it_reads_and_what_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: 0.01 * next(ticks))  # every run takes 10 ms
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_COPY_BYTES", {"cpu": 4096})
    monkeypatch.setattr(module, "_MATRIX_SIZES", {"cpu": (8, 16)})
    found = measure_ceilings(CPU, torch.float32)
    assert found.copy_bytes_per_s == pytest.approx(2 * 4096 / 0.01)
    assert found.flops_per_s == pytest.approx(2 * 16**3 / 0.01)
