"""Memory for weights and KV cache: what is available, and what the settings allow."""

import os
import re
from pathlib import Path

import torch

from roseinfer.engine.device import spare_memory_bytes
from roseinfer.errors import ModelError, UsageError, lacks_memory

_UNITS = {"": 1, "B": 1, "kB": 1000} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}

_ROTATION_COPIES = 3
"""Float32 tables of rotations that exist at once while they are computed: angles, their cosines and sines, result."""

_DEFAULT_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Default share of the KV cache in the memory that is left after loading. Other programs share a CPU's memory."""


def check_weights_fit(model: str, num_bytes: int, arithmetic: str) -> None:
    """Raise ModelError, with the arithmetic, if the CPU's memory cannot hold the weights."""
    available = available_memory_bytes()
    if num_bytes > available:
        raise ModelError(
            f"{model}: the weights need {num_bytes / 2**30:.1f} GiB of memory ({arithmetic}), "
            f"and {available / 2**30:.1f} GiB are available: choose a smaller model or dtype, or end other programs"
        )


def check_positions_fit(model: str, max_model_len: int, head_dim: int) -> None:
    """Raise ModelError if the CPU's memory cannot hold the rotations of all positions while they are computed."""
    needed = _ROTATION_COPIES * max_model_len * head_dim * 4
    available = available_memory_bytes()
    if needed > available:
        raise ModelError(
            f"{model}: the rotary positions of {max_model_len:,} tokens need {needed / 2**30:.1f} GiB of memory, "
            f"and {available / 2**30:.1f} GiB are available: give a smaller --max-model-len"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """True if a device or the CPU had no memory for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or lacks_memory(error)


def available_memory_bytes() -> int:
    """Return the bytes of CPU memory that programs can still allocate, swap and cached file pages included.

    Where the system does not report them, returns the machine's total memory: an estimate that is too low would
    refuse models that can run.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(amount.split()[0]) for name, _, amount in (line.partition(":") for line in lines)}
        return (kib["MemAvailable"] + kib.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, LookupError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parse_bytes(text: str) -> int | None:
    """Parse an amount of memory such as `512`, `500MB` or `1.5GiB` into bytes; None if it is malformed."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?i?B)?\s*", text)
    unit = match[2] or "" if match else None
    return int(float(match[1]) * _UNITS[unit]) if match and unit in _UNITS else None


def kv_cache_bytes(setting: str | None, device: torch.device, activation_bytes: int = 0) -> int:
    """Return the bytes for the KV cache: `setting` ("2GiB", "50%", "0.5"), or a default share of the spare memory.

    On a GPU, the default is a share of what is left without the `activation_bytes` of a step. A CPU's default share
    leaves enough for them. Raises UsageError for a setting that is malformed or exceeds the spare memory.
    """
    spare = spare_memory_bytes(device)
    if setting is None:
        left = spare - activation_bytes if device.type == "cuda" else spare
        return max(int(left * _DEFAULT_SHARE[device.type]), 0)
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*|\s*(0\.\d+|1\.0+)\s*", setting):
        share = float(match[1]) / 100 if match[1] else float(match[2])
        if not 0 < share <= 1:
            raise UsageError(f"invalid --kv-cache-memory {setting!r}: give a share above 0% and up to 100%")
        wanted = int(spare * share)
    else:
        parsed = parse_bytes(setting)
        if parsed is None:
            raise UsageError(
                f"invalid --kv-cache-memory {setting!r}: give a size such as 2GiB, or a percentage such as 50%"
            )
        wanted = parsed
    if wanted > spare:
        raise UsageError(
            f"--kv-cache-memory {setting} exceeds the {spare / 2**30:.1f} GiB that {device} has left: give less"
        )
    return wanted


def check_step_fits(setting: str, kv_bytes: int, activation_bytes: int, device: torch.device) -> None:
    """Raise UsageError, with the arithmetic, if the KV cache that `setting` asks for leaves no memory for a step.

    Only a GPU is checked: a CPU does not allocate the KV cache before requests use it.
    """
    spare = spare_memory_bytes(device)
    if device.type == "cuda" and kv_bytes + activation_bytes > spare:
        raise UsageError(
            f"--kv-cache-memory {setting} leaves {(spare - kv_bytes) / 2**30:.2f} of the {spare / 2**30:.2f} GiB that "
            f"{device} has left, and a step needs {activation_bytes / 2**30:.2f} GiB for its activations: give less, "
            "or lower --max-batch-tokens"
        )
