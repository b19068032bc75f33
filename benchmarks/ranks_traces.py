"""Record the traces of two or more ranks whose faults are planted, so that the truth about them is known.

    python benchmarks/ranks_traces.py traces --fault straggler                # two gloo ranks on the CPU
    python benchmarks/ranks_traces.py traces --fault bucketing --device cuda  # two GPUs, with NCCL
    python benchmarks/ranks_traces.py --check                                 # record all faults, and compare

Each rank computes and all-reduces for a few steps. The faults are a rank that computes longer (`straggler`), a rank
that loads its data first (`data`), a rank that collects garbage (`garbage`), and many small collectives instead of one
(`bucketing`). `truth.json` in the folder
says what was planted, and how much later per step the slow rank was ready, by its own clock. `--check` prints what
`summarize` says of each recording, and fails if it misses a fault.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

STEPS = 8
FAULTS = ("none", "straggler", "data", "garbage", "bucketing", "straggler,bucketing")
SLOW_RANK_FAULTS = {"straggler", "data", "garbage"}
_LATE_S = 0.05
"""Time per step that the planted fault costs the slow rank."""
_SMALL = 64
"""Number of collectives per step of the fault `bucketing`."""


def record(folder: Path, fault: str, device: str, ranks: int) -> None:
    """Record one trace per rank into a folder, with `truth.json` beside them."""
    import torch.multiprocessing

    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_run, args=(str(folder), fault, device, ranks, port), nprocs=ranks)
    ready_ms: list[float] = []
    for rank in range(ranks):
        path = folder / f"ready{rank}"
        ready_ms.append(float(path.read_text()))
        path.unlink()
    slow = ranks - 1 if SLOW_RANK_FAULTS & set(fault.split(",")) else None
    late_ms = ready_ms[-1] - sum(ready_ms[:-1]) / (ranks - 1)
    truth = {"fault": fault, "slow_rank": slow, "late_ms": round(late_ms, 3), "steps": STEPS}
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")


def _run(rank: int, folder: str, fault: str, device: str, ranks: int, port: int) -> None:
    import gc

    import torch
    import torch.distributed as dist
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile, record_function

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=ranks)
    matrix = torch.randn(256, 256, device=device)
    pieces = torch.randn(_SMALL if "bucketing" in fault else 1, 1 << 14, device=device)
    slow = rank == ranks - 1

    ready: list[float] = []

    def step() -> None:
        began = time.perf_counter()
        if slow and "data" in fault:
            with record_function("data_loader.next"):
                time.sleep(_LATE_S)
        if slow and "garbage" in fault:
            while time.perf_counter() < began + _LATE_S:
                gc.collect()
        until = time.perf_counter() + (_LATE_S if slow and "straggler" in fault else 0.0)
        for _ in range(4):
            matrix @ matrix
        while time.perf_counter() < until:
            matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()
        ready.append(time.perf_counter() - began)
        for piece in pieces:
            dist.all_reduce(piece)
        if device == "cuda":
            torch.cuda.synchronize()

    gc.collect()
    gc.freeze()
    gc.disable()
    objects = [[] for _ in range(100_000 if "garbage" in fault else 0)]  # for the collections to look at
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with_stack = "garbage" in fault
    config = _ExperimentalConfig(record_python_gc_info=with_stack)
    with profile(activities=activities, with_stack=with_stack, experimental_config=config) as profiler:
        dist.barrier()  # ranks start their profilers at different times
        for index in range(STEPS):
            with record_function(f"ProfilerStep#{index}"):
                step()
    profiler.export_chrome_trace(f"{folder}/rank{rank}.json")
    Path(folder, f"ready{rank}").write_text(str(1000 * sum(ready[1:]) / STEPS))
    objects.clear()
    dist.destroy_process_group()


def missed(folder: Path) -> str | None:
    """Return what `summarize` fails to say of a recorded fault, as text; None if it finds the fault."""
    from roseinfer.trace import summarize_trace

    truth = json.loads((folder / "truth.json").read_text())
    fault, summary = truth["fault"], summarize_trace(folder)
    sent = sum(row.count for row in summary.collectives if "reduce" in row.name)
    if sent != STEPS * (_SMALL if "bucketing" in fault else 1):
        return f"{sent} all-reduces are matched"
    late = summary.job.straggler if summary.job else None
    if "bucketing" in fault and not any("Bucket the collectives" in line for line in summary.verdict.advice):
        return f"no advice to bucket: {summary.verdict.advice}"
    if truth["slow_rank"] is None:
        return None
    if late is None or late.rank != truth["slow_rank"]:
        return f"rank {truth['slow_rank']} is not named: {summary.verdict.headline}"
    if abs(late.wait_ms - truth["late_ms"]) > 0.2 * truth["late_ms"]:
        return f"waits of {late.wait_ms:.1f} ms per step instead of {truth['late_ms']:.1f} ms"
    if "garbage" in fault and (late.collection is None or late.collection.ms < 0.8 * late.wait_ms):
        return f"garbage is not named: {late.collection}"
    return None


def check(device: str, ranks: int) -> bool:
    """Record every fault, print whether `summarize` finds it, and return True if it finds them all."""
    good = True
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as name:
            record(Path(name), fault, device, ranks)
            why = missed(Path(name))
        good = good and why is None
        print(f"{fault:10s} {'found' if why is None else f'MISSED: {why}'}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder for the traces")
    parser.add_argument("--fault", choices=FAULTS, default="straggler", help="planted fault [default: %(default)s]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device [default: %(default)s]")
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks [default: %(default)s]")
    parser.add_argument("--check", action="store_true", help="record every fault, and compare with the truth")
    args = parser.parse_args()
    if args.check:
        sys.exit(0 if check(args.device, args.ranks) else 1)
    if args.folder is None:
        parser.error("give a folder for the traces, or --check")
    record(args.folder, args.fault, args.device, args.ranks)
    print(f"wrote {args.ranks} traces and truth.json to {args.folder}")


if __name__ == "__main__":
    main()
