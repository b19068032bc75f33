"""Measure time and memory of `summarize` on a large trace, against msgspec merely decoding the same bytes.

    python benchmarks/trace_scale.py --gigabytes 1
    python benchmarks/trace_scale.py --gigabytes 0.1 0.3 1    # time per GB
    python benchmarks/trace_scale.py --gigabytes 0.5 --stacks # with shapes, Python stacks and memory events

The large trace repeats the recorded trace of tests/trace/data, in Kineto's layout, with shifted times and ids; with
`--stacks`, a training loop on the CPU that is recorded first, with all options of the profiler. Each
measurement runs in its own process; memory is that process's peak resident size, without that of the processes which
read other parts of the file.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "tests/trace/data/origin_gather_decode_h200.json.gz"
CHUNK_BYTES = 4 << 20


def record_stacks() -> bytes:
    """Record three steps of a small training loop with shapes, stacks and memory events; return the trace."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    optimizer = torch.optim.Adam(model.parameters())
    options = {"record_shapes": True, "with_stack": True, "with_modules": True, "profile_memory": True}
    with profile(activities=[ProfilerActivity.CPU], **options) as profiler:
        for index in range(3):
            with record_function(f"ProfilerStep#{index}"):
                optimizer.zero_grad()
                model(torch.randn(4, 16, 64)).square().mean().backward()
                optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return path.read_bytes()


def write_large(path: Path, num_bytes: int, text: bytes | None = None) -> int:
    """Write a trace of at least `num_bytes` bytes that repeats `text`, or the recorded one; return its events."""
    text = text or gzip.decompress(SOURCE.read_bytes())
    start = re.search(rb'"traceEvents": \[\n', text)
    end = text.rfind(b"\n  ],")
    if start is None or end < 0:
        raise SystemExit("the trace to repeat is not in Kineto's layout")
    body = text[start.end() : end]
    times = [float(found) for found in re.findall(rb'"ts": (\d+\.\d+)', body)]
    window_us = max(200_000.0, 2 * (max(times) - min(times)))
    stamps = re.compile(rb'("ts": )(\d+\.\d+)')
    ids = re.compile(rb'("(?:correlation|External id|id)": ?)(\d+)')
    steps = re.compile(rb"ProfilerStep#(\d+)")
    copies = 0
    with path.open("wb") as file:
        file.write(text[: start.end()])
        while file.tell() < num_bytes:
            shift, step = copies * window_us, copies * 1_000_000
            moved = stamps.sub(lambda m, by=shift: b"%s%.3f" % (m[1], float(m[2]) + by), body)
            moved = ids.sub(lambda m, by=step: b"%s%d" % (m[1], int(m[2]) + by), moved)
            moved = steps.sub(lambda m, by=3 * copies: b"ProfilerStep#%d" % (int(m[1]) + by), moved)
            file.write(b",\n" * bool(copies) + moved)
            copies += 1
        file.write(text[end:])
    return copies * body.count(b'"ph": ')


def bare_decode(path: Path) -> int:
    """Decode every event into the reader's struct, discard it, and return the number of events."""
    import msgspec

    from roseinfer.trace.reading.event_schema import RawEvent

    decode = msgspec.json.Decoder(list[RawEvent]).decode
    count, rest = 0, b""
    with path.open("rb") as file:
        head = file.read(4096)
        rest = head[head.index(b'"traceEvents": [') + 16 :]
        while chunk := file.read(CHUNK_BYTES):
            rest += chunk
            cut = rest.rfind(b"\n  },") + 4
            if cut > 4:
                count += len(decode(b"[" + rest[:cut] + b"]"))
                rest = rest[cut + 1 :]
    return count + len(decode(b"[" + rest[: rest.rfind(b"\n  ]")] + b"]"))


def summarize(path: Path) -> int:
    """Do the work of `roseinfer summarize` except printing; return the number of events."""
    from roseinfer.trace import summarize_trace

    return summarize_trace(path).trace.events


TASKS: dict[str, Callable[[Path], int]] = {"bare": bare_decode, "summarize": summarize}


def measured(task: str, path: Path) -> dict[str, float]:
    """Return seconds, peak MB and number of events of one task in a fresh process."""
    command = [sys.executable, __file__, "--task", task, "--path", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0], help="sizes of traces in GB [default: 1]")
    parser.add_argument("--repeats", type=int, default=3, help="runs per task and size [default: %(default)s]")
    parser.add_argument("--stacks", action="store_true", help="repeat a trace with shapes, stacks and memory events")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(measure(args.task, args.path)))
        return
    rows = [compare(gigabytes, args.repeats, args.stacks) for gigabytes in args.gigabytes]
    print("\n   GB  summarize CPU s per GB  bare CPU s per GB  peak MB")
    for size, best in rows:
        costs = best["summarize"]["cpu_seconds"] / size, best["bare"]["cpu_seconds"] / size
        print(f"{size:5.2f}  {costs[0]:22.2f}  {costs[1]:17.2f}  {best['summarize']['peak_mb']:7.0f}")


def measure(task: str, path: Path) -> dict[str, float]:
    """Run one task; return its seconds, CPU seconds, number of events, and this process's peak MB."""
    began, began_cpu = time.perf_counter(), cpu_seconds()
    events = TASKS[task](path)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - began_cpu
    # Not ru_maxrss: a child process inherits its parent's.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    found = {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb, "events": events}
    return {name: round(value, 3) for name, value in found.items()}


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the processes that it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(gigabytes: float, repeats: int, stacks: bool) -> tuple[float, dict[str, dict[str, float]]]:
    """Run both tasks in turn on a trace of a size; return (its size in GB, least value of each figure by task)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.json"
        events = write_large(path, int(gigabytes * 1e9), record_stacks() if stacks else None)
        size = path.stat().st_size / 1e9
        print(f"{size:.2f} GB, {events:,} events")
        runs: dict[str, list[dict[str, float]]] = {task: [] for task in TASKS}
        for _ in range(repeats):
            for task, done in runs.items():
                done.append(found := measured(task, path))
                times = f"{found['seconds']:7.2f} s {found['cpu_seconds']:7.2f} s CPU"
                print(f"{task:10s} {times} {found['peak_mb']:7.1f} MB {found['events']:,.0f} events")
    best = {task: {unit: min(found[unit] for found in done) for unit in done[0]} for task, done in runs.items()}
    for unit in ("seconds", "cpu_seconds"):
        print(f"summarize / bare, best of each, {unit}: {best['summarize'][unit] / best['bare'][unit]:.2f}")
    return size, best


if __name__ == "__main__":
    main()
