"""Choices that were measured on a device: some come along, others are kept in the user's cache folder."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from roseinfer.cache_folder import cache_folder

_TORCH = str(torch.__version__)
Choice = tuple[int, ...]
"""Numbers that a kernel's tiles are made of; empty where torch's own operation won."""


_SHIPPED = Path(__file__).parent / "choices"
"""What `python -m benchmarks.kernels --tune` found, one file a kind of device."""


class _Entry(msgspec.Struct, frozen=True):
    """One file."""

    device: str
    torch: str
    choices: dict[str, Choice]


@functools.lru_cache
def tuned(device: torch.device) -> dict[str, Choice]:
    """What is known of the device, the user's own measurements before those that come along; read once a process."""
    name, path = _place(device)
    known: dict[str, Choice] = {}
    shipped = _SHIPPED / f"{name.lower().replace(' ', '_')}.json"
    if shipped.is_file():
        known |= msgspec.json.decode(shipped.read_bytes(), type=_Entry).choices
    with contextlib.suppress(OSError, msgspec.DecodeError):
        entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
        if (entry.device, entry.torch) == (name, _TORCH):
            known |= entry.choices
    return known


def remember(device: torch.device, choices: dict[str, Choice]) -> None:
    """Add choices to what is known, in this process and, where the folder can be written, in later ones."""
    known = tuned(device)
    known.update(choices)
    name, path = _place(device)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.encode(_Entry(name, _TORCH, known)))
        partial.replace(path)  # whole or not at all: another process may read it at any time


def replay_us(run: Callable[[], object], *, runs: int = 10) -> float:
    """Microseconds that `run` takes in a CUDA graph: the shortest of some replays."""
    cuda: Any = torch.cuda  # untyped for the most part
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


def _place(device: torch.device) -> tuple[str, Path]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    digest = hashlib.sha256(f"{name} {_TORCH}".encode()).hexdigest()[:16]
    return name, cache_folder() / "kernels" / f"{digest}.json"
