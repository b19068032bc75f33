"""Measure time and memory of `summarize` on a folder of many ranks.

    python benchmarks/many_ranks.py --ranks 256 --megabytes 4

Every rank has the recorded trace of tests/trace/data as its work, cut to a size, and all-reduces whose ends agree over
the ranks. One rank begins each of them 2 ms late. The measurement runs in a process of its own.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "tests/trace/data/origin_gather_decode_h200.json.gz"
_COLLECTIVES = 20
_LATE_US = 2000.0


def write_ranks(folder: Path, ranks: int, num_bytes: int) -> int:
    """Write one file per rank, of about `num_bytes` each; return the rank that is late."""
    document = json.loads(gzip.decompress(SOURCE.read_bytes()))
    events = sorted((one for one in document["traceEvents"] if one.get("ph") == "X"), key=lambda one: one["ts"])
    size = len(json.dumps(events)) / len(events)
    events = events[: int(num_bytes / size)]
    last = max(one["ts"] + one["dur"] for one in events)
    body = ",\n".join(json.dumps(one) for one in events)
    late = ranks // 3
    for rank in range(ranks):
        info = {"backend": "nccl", "rank": rank, "world_size": ranks}
        head = {"schemaVersion": 1, "deviceProperties": document["deviceProperties"], "distributedInfo": info}
        own = "".join(
            ",\n" + json.dumps(one)
            for index in range(_COLLECTIVES)
            for one in _all_reduce(last + 10_000 * index, index, 0.0 if rank == late else _LATE_US)
        )
        text = f'{json.dumps(head)[:-1]}, "traceEvents": [\n{body}{own}\n]}}'
        (folder / f"rank{rank}.json").write_text(text)
    return late


def _all_reduce(end: float, index: int, wait_us: float) -> list[dict[str, object]]:
    """Return launch and kernel of a collective that transfers for 500 us and ends at the same time on all ranks."""
    start, correlation = end + 9000 - 500 - wait_us, 10_000_000 + index
    args = {"correlation": correlation, "Collective name": "allreduce", "Process Group Name": "0", "dtype": "Float"}
    base = {"ph": "X", "pid": 1, "tid": 1}
    return [
        {
            **base,
            "cat": "cuda_runtime",
            "name": "launch",
            "ts": start - 5,
            "dur": 3,
            "args": {"correlation": correlation},
        },
        {
            **base,
            "cat": "kernel",
            "name": "ncclDevKernel_AllReduce_Sum_f32_RING_LL()",
            "ts": start,
            "dur": 500 + wait_us,
            "args": {**args, "device": 0, "stream": 30, "In msg nelems": 1 << 20},
        },
    ]


def measure(folder: Path) -> dict[str, object]:
    """Summarize a folder in this process; return seconds, CPU seconds, peak MB, and the straggler."""
    from roseinfer.trace import summarize_trace

    began, began_cpu = time.perf_counter(), time.process_time()
    summary = summarize_trace(folder)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    status = Path("/proc/self/status").read_text(encoding="ascii")
    late = summary.job.straggler if summary.job else None
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(int(status.split("VmHWM:")[1].split()[0]) / 1024),
        "ranks": len(summary.ranks),
        "events": summary.trace.events,
        "straggler": late.rank if late else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=256, help="number of ranks [default: %(default)s]")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size per rank in MB [default: %(default)s]")
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.path:
        print(json.dumps(measure(args.path)))
        return
    with tempfile.TemporaryDirectory() as name:
        late = write_ranks(Path(name), args.ranks, int(args.megabytes * 1e6))
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        print(f"{args.ranks} ranks, {size / 1e6:,.0f} MB, rank {late} is late")
        command = [sys.executable, __file__, "--path", name]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
