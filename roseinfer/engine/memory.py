"""How much memory the KV cache may take."""

import re

import torch

from roseinfer.engine.device import spare_memory_bytes
from roseinfer.errors import UsageError

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}

_DEFAULT_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Of the memory that is left once the weights are loaded. A CPU's memory is shared with other programs."""


def kv_cache_bytes(setting: str | None, device: torch.device) -> int:
    """Bytes for the KV cache: as `setting` says ("2GiB", "50%", "0.5"), or a sane share of what is left.

    Raises UsageError for a setting that is no amount, or more than there is.
    """
    spare = spare_memory_bytes(device)
    if setting is None:
        return int(spare * _DEFAULT_SHARE[device.type])
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[KMGT]?i?B)?\s*", setting)
    if match is None:
        raise UsageError(f"kv_cache_memory {setting!r} is no amount: write bytes like 2GiB, or a share like 50%")
    number, unit = float(match[1]), match[2] or ""
    if unit == "%" or (not unit and 0 < number <= 1):
        share = number / 100 if unit else number
        if not 0 < share <= 1:
            raise UsageError(f"kv_cache_memory {setting!r} is no share: it lies above 0 % and up to 100 %")
        return int(spare * share)
    wanted = int(number * _UNITS[unit])
    if wanted > spare:
        raise UsageError(
            f"kv_cache_memory {setting} is more than the {spare / 2**30:.1f} GiB that are left on {device}"
        )
    return wanted
