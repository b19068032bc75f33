"""Peak memory bandwidth and matrix-product rate of a device, measured once and cached.

MBU and MFU divide by these measured rates. A vendor's figures assume clocks and memory that this machine may not have.
A measurement takes about one second on a CPU and less on a GPU.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace

from roseinfer.cache_folder import cache_folder, read_cached, write_cached
from roseinfer.engine.device import device_name, num_threads

_BUDGET_S = 0.15
"""Time spent on each measurement, in seconds. On a busy machine, the best of many runs is the device's own speed."""
_MAX_RUNS = 30
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
"""Size of the copied buffer, by device type. Larger than any cache."""
_MATRIX_SIZES = {"cpu": (256, 1024, 2048), "cuda": (4096, 8192)}


class Ceilings(msgspec.Struct, frozen=True):
    """Measured rates of one device, for one dtype."""

    copy_bytes_per_s: float
    """Memory bandwidth: bytes read plus bytes written, per second."""
    flops_per_s: float


class _Key(msgspec.Struct, frozen=True):
    """Properties of the machine and the process that the rates depend on."""

    device: str
    dtype: str
    threads: int
    torch: str


class _CeilingsFile(msgspec.Struct, frozen=True):
    """Content of one file in the cache folder: the rates, and the key under which they were measured."""

    key: _Key
    ceilings: Ceilings


def ceilings(device: torch.device, dtype: torch.dtype, *, fresh: bool = False) -> Ceilings:
    """Return the device's rates, from the user's cache folder if they were measured before.

    The memory of a CPU is shared with other programs, and with other virtual machines, so its cached bandwidth may be
    far too low. It is measured again for a moment, and only rises. `fresh` measures both rates again and replaces them.
    The cache key is the device, dtype, number of threads and torch version. If the folder cannot be written, every call
    measures.
    """
    key = _key(device, dtype)
    path = cache_folder() / "ceilings" / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:16]}.json"
    known = None if fresh else _read(path, key)
    if known is None:
        rates = measure_ceilings(device, dtype)
    elif device.type == "cpu":
        rates = replace(known, copy_bytes_per_s=max(known.copy_bytes_per_s, measure_bandwidth(device)))
    else:
        return known
    if rates != known:
        _write(path, _CeilingsFile(key, rates))
    return rates


@torch.inference_mode()
def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure both rates: copy a large buffer, multiply large random matrices, and return the best of each."""
    return Ceilings(measure_bandwidth(device), _flops_per_s(device, dtype))


@torch.inference_mode()
def measure_bandwidth(device: torch.device) -> float:
    """Return the bandwidth of a copy in bytes/s, read and written; on a CPU, the bandwidth of a sum if it is higher.

    A CPU reads a cache line before it overwrites the line, so a copy moves more bytes than are counted here. Decoding
    mostly reads, as a sum does.
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
    """Return the best rate over square products of growing size.

    The size stops growing once a product takes much of the time budget: some dtypes are very slow on a CPU.
    """
    best = 0.0
    for size in _MATRIX_SIZES[device.type]:
        # Random values: all-zero matrices would draw less power and run at a higher clock.
        left, right = torch.rand(2, size, size, device=device).sub_(0.5).to(dtype)
        seconds = _best_s(partial(torch.matmul, left, right), device)
        best = max(best, 2 * size**3 / seconds)
        if seconds > _BUDGET_S / 8:
            break  # the next size takes at least eight times as long
    return best


def _best_s(run: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of several runs, in seconds: at least three runs, more if the time budget allows."""
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
    """Return the processor's model name on Linux, elsewhere "CPU"."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def _read(path: Path, key: _Key) -> Ceilings | None:
    try:
        entry = msgspec.json.decode(read_cached(path), type=_CeilingsFile)
    except (OSError, msgspec.DecodeError):
        return None
    rates = entry.ceilings
    return rates if entry.key == key and rates.copy_bytes_per_s > 0 and rates.flops_per_s > 0 else None


def _write(path: Path, entry: _CeilingsFile) -> None:
    with contextlib.suppress(OSError):
        write_cached(path, msgspec.json.encode(entry))
