"""Measured choices of kernels and tile sizes per device, shipped with the package or stored in the cache folder."""

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from roseinfer.cache_folder import cache_folder, read_cached, write_cached
from roseinfer.kernels.runtime import num_multiprocessors

_TORCH = str(torch.__version__)
Choice = tuple[int, ...]
"""Values of a kernel's tile class (such as `GemvTiles`), in field order. Empty if torch's operation was faster."""

_SHIPPED = Path(__file__).parent / "choices"
"""Results of `python -m benchmarks.kernels --tune`, one file per device model."""

_HOPPER = ((9, 0), 132)
"""Compute capability and multiprocessors of an H200. An H100 SXM and a GH200 have the same, with other memory."""


class _Entry(msgspec.Struct, frozen=True):
    """Contents of a file of measured choices, with the device and torch version that they were measured on."""

    device: str
    torch: str
    choices: dict[str, Choice]


@functools.lru_cache
def tuned(device: torch.device) -> dict[str, Choice]:
    """Return the device's choices, read once per process. The user's own measurements override the shipped ones."""
    name, path = _place(device)
    shipped = _shipped(device, name)
    known = {} if shipped is None else msgspec.json.decode(shipped.read_bytes(), type=_Entry).choices
    with contextlib.suppress(OSError, msgspec.DecodeError):
        entry = msgspec.json.decode(read_cached(path), type=_Entry)
        if (entry.device, entry.torch) == (name, _TORCH):
            known |= entry.choices
    return known


def remember(device: torch.device, choices: dict[str, Choice]) -> None:
    """Add choices to `tuned`, in this process and, if the cache folder is writable, in later ones."""
    known = tuned(device)
    known.update(choices)
    name, path = _place(device)
    with contextlib.suppress(OSError):
        write_cached(path, msgspec.json.encode(_Entry(name, _TORCH, known)))


def replay_us(run: Callable[[], object], *, runs: int = 10) -> float:
    """Capture `run` in a CUDA graph and return the shortest of `runs` replays, in microseconds."""
    cuda: Any = torch.cuda  # mostly untyped
    run()
    cuda.synchronize()
    with cuda.stream(cuda.Stream()):
        run()
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        run()
    graph.replay()
    best = float("inf")
    for _ in range(runs):
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        cuda.synchronize()
        best = min(best, start.elapsed_time(end) * 1000)
    return best


def _shipped(device: torch.device, name: str) -> Path | None:
    """Return the file with the choices for a device, or for one with the same processor."""
    own = _SHIPPED / f"{name.lower().replace(' ', '_')}.json"
    if own.is_file():
        return own
    # The H200's choices made decode steps of an H100 up to 14 % shorter, and none of six more than 0.2 % longer.
    is_hopper = device.type == "cuda" and (
        (torch.cuda.get_device_capability(device), num_multiprocessors(device)) == _HOPPER
    )
    return _SHIPPED / "nvidia_h200.json" if is_hopper else None


def _place(device: torch.device) -> tuple[str, Path]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    digest = hashlib.sha256(f"{name} {_TORCH}".encode()).hexdigest()[:16]
    return name, cache_folder() / "kernels" / f"{digest}.json"
