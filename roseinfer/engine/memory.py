"""How much memory there is for the weights, and how much the KV cache may take."""

import os
import re
from pathlib import Path

import torch

from roseinfer.engine.device import spare_memory_bytes
from roseinfer.errors import ModelError, UsageError

_UNITS = {"": 1, "B": 1, "kB": 1000} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}

_DEFAULT_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Of the memory that is left once the weights are loaded. A CPU's memory is shared with other programs."""


def check_weights_fit(model: str, num_bytes: int, arithmetic: str) -> None:
    """Raises ModelError, with the arithmetic, for weights that the CPU's memory cannot hold."""
    available = available_memory_bytes()
    if num_bytes > available:
        raise ModelError(
            f"{model}: the weights need {num_bytes / 2**30:.1f} GiB of memory ({arithmetic}), "
            f"and {available / 2**30:.1f} GiB are available: choose a smaller model or dtype, or end other programs"
        )


def available_memory_bytes() -> int:
    """Bytes that the CPU's programs can still take, those in swap and of files' pages included.

    All that the machine has where the system does not tell: a guess must not refuse what could run.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(amount.split()[0]) for name, _, amount in (line.partition(":") for line in lines)}
        return (kib["MemAvailable"] + kib.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, LookupError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parse_bytes(text: str) -> int | None:
    """`512`, `500MB`, `1.5GiB` as bytes; None for what is no such amount."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?i?B)?\s*", text)
    unit = match[2] or "" if match else None
    return int(float(match[1]) * _UNITS[unit]) if match and unit in _UNITS else None


def kv_cache_bytes(setting: str | None, device: torch.device) -> int:
    """Bytes for the KV cache: as `setting` says ("2GiB", "50%", "0.5"), or a sane share of what is left.

    Raises UsageError for a setting that is no amount, or more than there is.
    """
    spare = spare_memory_bytes(device)
    if setting is None:
        return int(spare * _DEFAULT_SHARE[device.type])
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*|\s*(0\.\d+|1\.0+)\s*", setting):
        share = float(match[1]) / 100 if match[1] else float(match[2])
        if not 0 < share <= 1:
            raise UsageError(f"kv_cache_memory {setting!r} is no share: it lies above 0 % and up to 100 %")
        return int(spare * share)
    wanted = parse_bytes(setting)
    if wanted is None:
        raise UsageError(f"kv_cache_memory {setting!r} is no amount: write bytes like 2GiB, or a share like 50%")
    if wanted > spare:
        raise UsageError(
            f"kv_cache_memory {setting} is more than the {spare / 2**30:.1f} GiB that are left on {device}"
        )
    return wanted
