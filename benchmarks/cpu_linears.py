"""Time matrix products on a CPU: compiled kernels against torch's, for plain, int8 and int4 weights.

    python benchmarks/cpu_linears.py [--sizes 3072x576 576x1536] [--rows 1 4 16 64 128 512]

Each product runs over enough copies of the weight that they are read from memory, not from a cache. Compiled kernels
and torch take turns, and the best of a few rounds counts. For plain weights, torch uses oneDNN's packed layout. For
quantized weights it uses low-bit kernels, or dequantizes the weights first if there are many rows. Prints Markdown.
"""

import argparse
import time

import torch

from roseinfer.kernels.cpu import native_library
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.linear.onednn_weight import OneDnnWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups, Int8Rows
from roseinfer.kernels.linear.weight_form import WeightForm

_CACHE_BYTES = 1 << 27
"""Bytes of weights read in turn: more than a processor's caches hold."""
_ROUNDS = 5


def forms(kind: str, weight: torch.Tensor) -> tuple[WeightForm, WeightForm]:
    """Return the weight packed for the compiled kernels, and for torch's."""
    outputs = len(weight)
    if kind == "int8":
        rows = QuantizedWeight.int8_rows(weight)
        return NativeWeight.pack_quantized(rows, outputs), Int8Rows.pack(rows)
    if kind == "int4":
        groups = QuantizedWeight.int4_groups(weight)
        return NativeWeight.pack_quantized(groups, outputs), Int4Groups.pack(groups)
    return NativeWeight.pack(weight, outputs), OneDnnWeight.pack(weight)


def best_us(copies: list[WeightForm], x: torch.Tensor) -> float:
    """Return the time of one product in us, averaged over the copies."""
    started_s = time.perf_counter()
    for weight in copies:
        weight.linear(x)
    return 1e6 * (time.perf_counter() - started_s) / len(copies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["3072x576", "576x1536"], help="outputs x inputs of each weight")
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[1, 4, 16, 64, 128, 512], help="numbers of activation rows"
    )
    arguments = parser.parse_args()
    native_library.load()
    torch.manual_seed(0)
    print("| weight | form | rows | compiled, us | torch, us | torch / compiled | compiled reads, GB/s |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        outputs, inputs = map(int, size.split("x"))
        for kind in ("plain", "int8", "int4"):
            weight = torch.randn(outputs, inputs).to(torch.bfloat16)
            number = _CACHE_BYTES // forms(kind, weight)[0].nbytes
            ours, torchs = map(list, zip(*(forms(kind, weight) for _ in range(number)), strict=True))
            for rows in arguments.rows:
                x = torch.randn(rows, inputs).to(torch.bfloat16)
                rounds = [(best_us(ours, x), best_us(torchs, x)) for _ in range(_ROUNDS)]
                compiled, by_torch = (min(times) for times in zip(*rounds, strict=True))
                speed = ours[0].nbytes / compiled / 1e3
                name = f"| {size} | {'bfloat16' if kind == 'plain' else kind} | {rows} "
                print(f"{name}| {compiled:.0f} | {by_torch:.0f} | {by_torch / compiled:.2f} | {speed:.0f} |")


if __name__ == "__main__":
    main()
