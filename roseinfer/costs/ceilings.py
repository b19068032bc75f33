"""What a device reaches at best: memory bandwidth and matrix products, measured once and kept.

Vendors' figures are for other clocks, other memory and no refresh; a ratio to what this very machine can do is
one to trust. A measurement takes about a second on a CPU and less on a GPU.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import torch

from roseinfer.cache_folder import cache_folder
from roseinfer.engine.device import device_name, num_threads

_BUDGET_S = 0.15
"""Of each measurement; on a busy machine the best of many tries is what the device can do."""
_MAX_RUNS = 30
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
"""Larger than any cache."""
_MATRIX_SIZES = {"cpu": (256, 1024, 2048), "cuda": (4096, 8192)}


class Ceilings(msgspec.Struct, frozen=True):
    """Measured rates of one device, for one dtype."""

    copy_bytes_per_s: float
    """Read and written, together."""
    flops_per_s: float


class _Key(msgspec.Struct, frozen=True):
    """What the rates depend on."""

    device: str
    dtype: str
    threads: int
    torch: str


class _CeilingsFile(msgspec.Struct, frozen=True):
    """One file of the cache."""

    key: _Key
    ceilings: Ceilings


def ceilings(device: torch.device, dtype: torch.dtype, *, fresh: bool = False) -> Ceilings:
    """The device's rates, from the user's cache folder where they were measured before; `fresh` measures again.

    The file is keyed by device, dtype, threads and torch's version. Where the folder cannot be written, they are
    measured each time.
    """
    key = _key(device, dtype)
    path = cache_folder() / "ceilings" / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:16]}.json"
    if not fresh and (known := _read(path, key)) is not None:
        return known
    measured = measure_ceilings(device, dtype)
    _write(path, _CeilingsFile(key, measured))
    return measured


@torch.inference_mode()
def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Copy a large buffer, multiply large random matrices; the best rates seen."""
    return Ceilings(_copy_bytes_per_s(device), _flops_per_s(device, dtype))


def _copy_bytes_per_s(device: torch.device) -> float:
    """Of a copy; on a CPU, of a sum where that is faster.

    A CPU fetches the lines that it is about to overwrite, so a copy moves more than it says; decoding mostly reads.
    """
    size = _COPY_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    rate = 2 * size / _best_s(lambda: target.copy_(source), device)
    if device.type == "cpu":
        rate = max(rate, size / _best_s(source.sum, device))
    return rate


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Of square products that grow until one fills a good part of the budget: some dtypes are very slow on a CPU."""
    best = 0.0
    for size in _MATRIX_SIZES[device.type]:
        left, right = torch.rand(2, size, size, device=device).sub_(0.5).to(dtype)  # zeros would draw less power
        seconds = _best_s(partial(torch.matmul, left, right), device)
        best = max(best, 2 * size**3 / seconds)
        if seconds > _BUDGET_S / 8:
            break  # the next size takes at least eight times as long
    return best


def _best_s(run: Callable[[], object], device: torch.device) -> float:
    """The shortest of as many runs as the budget holds, three at least."""
    run()
    _wait(device)
    best, runs, started = float("inf"), 0, time.perf_counter()
    while runs < 3 or (time.perf_counter() - started < _BUDGET_S and runs < _MAX_RUNS):
        begun = time.perf_counter()
        run()
        _wait(device)
        best = min(best, time.perf_counter() - begun)
        runs += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(device: torch.device, dtype: torch.dtype) -> _Key:
    name = device_name(device) if device.type == "cuda" else f"{_cpu_name()}, {device_name(device)}"
    return _Key(name, str(dtype).removeprefix("torch."), num_threads(), str(torch.__version__))


def _cpu_name() -> str:
    """The processor's model, where Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def _read(path: Path, key: _Key) -> Ceilings | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=_CeilingsFile)
    except (OSError, msgspec.DecodeError):
        return None
    rates = entry.ceilings
    return rates if entry.key == key and rates.copy_bytes_per_s > 0 and rates.flops_per_s > 0 else None


def _write(path: Path, entry: _CeilingsFile) -> None:
    """Whole or not at all: another process may read it at any time."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.encode(entry))
        partial.replace(path)
