"""The option `--peak` of `summarize`."""

from typing import TYPE_CHECKING

from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.trace.summary.work_structs import DevicePeaks


def parse_peaks(text: str) -> "DevicePeaks":
    """Return the peaks of `989,3.35`: TFLOP/s of bfloat16 products, and TB/s of the memory."""
    from roseinfer.trace.summary.work_structs import DevicePeaks

    try:
        tflops, tb_per_s = (float(part) for part in text.split(","))
    except ValueError:
        tflops = tb_per_s = 0.0
    if not (0 < tflops < 1e9 and 0 < tb_per_s < 1e9):
        raise UsageError(f"invalid --peak {text!r}: give TFLOP/s and TB/s of the device, such as 989,3.35")
    return DevicePeaks(device="--peak", tflops=tflops, tb_per_s=tb_per_s, source="option")
