"""Measure time and memory of `summarize` on a large trace, against msgspec merely decoding the same bytes.

    python benchmarks/trace_scale.py --gigabytes 1

The large trace repeats the recorded trace of tests/trace/data, in Kineto's layout, with shifted times and ids. Each
measurement runs in its own process; memory is that process's peak resident size.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "tests/trace/data/origin_gather_decode_h200.json.gz"
CHUNK_BYTES = 4 << 20


def write_large(path: Path, num_bytes: int) -> int:
    """Write a trace of at least `num_bytes` bytes; return its number of events."""
    text = gzip.decompress(SOURCE.read_bytes())
    start = re.search(rb'"traceEvents": \[\n', text)
    end = text.rfind(b"\n  ],")
    if start is None or end < 0:
        raise SystemExit(f"{SOURCE} is not in Kineto's layout")
    body = text[start.end() : end]
    window_us = 200_000.0
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
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the trace in GB [default: %(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="runs per task [default: %(default)s]")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        began, began_cpu = time.perf_counter(), time.process_time()
        events = TASKS[args.task](args.path)
        seconds = time.perf_counter() - began
        # Not ru_maxrss: a child process inherits its parent's.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
        cpu = time.process_time() - began_cpu
        found = {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb, "events": events}
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.json"
        events = write_large(path, int(args.gigabytes * 1e9))
        print(f"{path.stat().st_size / 1e9:.2f} GB, {events:,} events")
        runs = {task: [] for task in TASKS}
        for _ in range(args.repeats):
            for task, done in runs.items():
                done.append(found := measured(task, path))
                times = f"{found['seconds']:7.2f} s {found['cpu_seconds']:7.2f} s CPU"
                print(f"{task:10s} {times} {found['peak_mb']:7.1f} MB {found['events']:,.0f} events")
        for unit in ("seconds", "cpu_seconds"):
            best = {task: min(found[unit] for found in done) for task, done in runs.items()}
            print(f"summarize / bare, best of each, {unit}: {best['summarize'] / best['bare']:.2f}")


if __name__ == "__main__":
    main()
