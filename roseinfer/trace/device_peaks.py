"""Dense peaks of known devices, from the vendors' data sheets: FLOPs without sparsity, and memory bandwidth."""

import re
from typing import NamedTuple

from roseinfer.errors import UsageError
from roseinfer.trace.summary.work_structs import DevicePeaks


class _Row(NamedTuple):
    """Row of the table; `has_tf32` is True if float32 products can run at half the rate of 16-bit ones."""

    name: str
    pattern: str
    tflops: float
    tb_per_s: float
    has_bf16: bool = True
    has_tf32: bool = True


_TABLE = (
    _Row("V100", r"v100", 125, 0.9, has_bf16=False, has_tf32=False),
    _Row("T4", r"\bt4\b", 65, 0.32, has_bf16=False, has_tf32=False),
    _Row("A100-80GB", r"a100.*80", 312, 2.04),
    _Row("A100-40GB", r"a100", 312, 1.56),
    _Row("A30", r"\ba30\b", 165, 0.93),
    _Row("A10G", r"\ba10g\b", 70, 0.6),
    _Row("A10", r"\ba10\b", 125, 0.6),
    _Row("A40", r"\ba40\b", 149, 0.7),
    _Row("RTX A6000", r"rtx a6000", 154, 0.77),
    _Row("RTX 3090", r"rtx 3090\b(?! ti)", 71, 0.94),
    _Row("RTX 4090", r"rtx 4090\b(?! (?:d|laptop))", 165, 1.01),
    _Row("RTX 5090", r"rtx 5090\b(?! (?:d|laptop))", 209, 1.79),
    _Row("RTX 6000 Ada", r"rtx 6000 ada", 364, 0.96),
    _Row("L40S", r"\bl40s\b", 362, 0.86),
    _Row("L4", r"\bl4\b", 121, 0.3),
    _Row("H100 PCIe", r"h100.*pcie", 756, 2.0),
    _Row("H100 NVL", r"h100.*nvl", 835, 3.9),
    _Row("H100 SXM", r"h100", 989, 3.35),
    _Row("H200 NVL", r"\bh200\b.*nvl", 835, 4.8),
    _Row("H200", r"\bh200\b", 989, 4.8),
    _Row("H20", r"\bh20\b", 148, 4.0),
    _Row("GH200", r"\bgh200\b(?!.*144)", 989, 4.0),
    _Row("GH200 144GB", r"\bgh200\b", 989, 4.9),
    _Row("B200", r"\bb200\b", 2250, 8.0),
    _Row("GB200", r"\bgb200\b", 2500, 8.0),
    _Row("B300", r"\bb300\b", 2250, 8.0),
    _Row("MI250X", r"mi250x", 383, 3.28, has_tf32=False),
    _Row("MI300X", r"mi300x", 1307, 5.3),
    _Row("MI325X", r"mi325x", 1307, 6.0),
    _Row("MI350X", r"mi350x", 2307, 8.0, has_tf32=False),
    _Row("MI355X", r"mi355x", 2517, 8.0, has_tf32=False),
)
"""TFLOP/s of bfloat16 (float16 on V100 and T4), and TB/s. The first row whose pattern is in a device's name counts."""


def known_peaks(device: str, memory_bytes: int = 0) -> DevicePeaks | None:
    """Return the peaks of a device by its name; None for a device that is not in the table.

    `memory_bytes`, 0 if unknown, tells the two sizes of A100 apart. An H100 without a form in its name counts as SXM.
    """
    lower = device.lower()
    for row in _TABLE:
        if not re.search(row.pattern, lower):
            continue
        if row.name == "A100-40GB" and memory_bytes > 60e9:
            row = next(one for one in _TABLE if one.name == "A100-80GB")
        return DevicePeaks(
            device=row.name,
            tflops=row.tflops,
            tb_per_s=row.tb_per_s,
            has_bf16=row.has_bf16,
            has_tf32=row.has_tf32,
            source="table",
        )
    return None


def parse_peaks(text: str) -> DevicePeaks:
    """Return the peaks of `989,3.35`: TFLOP/s of bfloat16 products, and TB/s of the memory. Raises UsageError."""
    try:
        tflops, tb_per_s = (float(part) for part in text.split(","))
    except ValueError:
        tflops = tb_per_s = 0.0
    if not (0 < tflops < 1e9 and 0 < tb_per_s < 1e9):
        raise UsageError(f"invalid --peak {text!r}: give TFLOP/s and TB/s of the device, such as 989,3.35")
    return DevicePeaks(device="--peak", tflops=tflops, tb_per_s=tb_per_s, source="option")


def peak_flops(peaks: DevicePeaks, dtype: str) -> float | None:
    """Return the peak in FLOP/s for products of a type; None if it is not known."""
    if dtype == "float16" or (dtype == "bfloat16" and peaks.has_bf16):
        return peaks.tflops * 1e12
    if dtype == "float32" and peaks.has_tf32:
        return peaks.tflops * 1e12 / 2
    return None
