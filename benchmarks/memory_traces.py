"""Record a training loop with a planted leak, so that the truth about its memory is known.

    python benchmarks/memory_traces.py trace.json                    # on the CPU
    python benchmarks/memory_traces.py trace.json --device cuda
    python benchmarks/memory_traces.py --check                       # record, and compare with what summarize says

Each step trains a small model, allocates a large tensor that it frees again, and keeps a tensor in a list. The growth
per step is that tensor's size. On a GPU the peak is also known from `torch.cuda.max_memory_allocated`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 6
LEAK_BYTES = 3 << 20
LARGE_BYTES = 24 << 20


def record(path: Path, device: str, leak_bytes: int = LEAK_BYTES) -> dict[str, Any]:
    """Record the loop into a file; return the truth: `growth_bytes_per_step` and `peak_bytes`, None on a CPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 1)).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    kept: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss = model(torch.randn(32, 64, device=device)).square().mean()
        loss.backward()
        optimizer.step()
        large = torch.empty(LARGE_BYTES, dtype=torch.uint8, device=device)
        del large, loss
        kept.append(torch.empty(leak_bytes, dtype=torch.uint8, device=device))

    step()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities, profile_memory=True, record_shapes=True) as profiler:
        for index in range(STEPS):
            with record_function(f"ProfilerStep#{index}"):
                step()
        if device == "cuda":
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(path))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"growth_bytes_per_step": leak_bytes, "peak_bytes": peak}


def missed(path: Path, truth: dict[str, Any]) -> str | None:
    """Return what `summarize` fails to say of a recording, as text; None if it agrees with the truth."""
    from roseinfer.trace import summarize_trace

    summary = summarize_trace(path)
    row = next((one for one in summary.memory if (one.device is None) == (truth["peak_bytes"] is None)), None)
    if row is None:
        return "no memory is summarized"
    if row.growth_bytes_per_step != truth["growth_bytes_per_step"] or not row.is_growing:
        return f"growth of {row.growth_bytes_per_step} bytes per step"
    if truth["peak_bytes"] not in (None, row.peak_bytes):
        return f"peak of {row.peak_bytes} bytes instead of {truth['peak_bytes']}"
    first = row.at_end[0]
    if (first.operator, first.bytes, first.tensors) != ("aten::empty", STEPS * truth["growth_bytes_per_step"], STEPS):
        return f"{first} is named as held"
    return None if any(one.id == "memory_growth" for one in summary.findings) else "no finding names the growth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", help="file for the trace; the truth is printed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device [default: %(default)s]")
    parser.add_argument("--check", action="store_true", help="record, and compare with the truth")
    args = parser.parse_args()
    if args.check:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            why = missed(path, record(path, args.device))
        print("found" if why is None else f"MISSED: {why}")
        sys.exit(0 if why is None else 1)
    if args.path is None:
        parser.error("give a file for the trace, or --check")
    print(json.dumps(record(args.path, args.device)))


if __name__ == "__main__":
    main()
