"""Compare time and peak memory of `summarize` and HolisticTraceAnalysis (HTA) on one large trace.

    python -m venv hta && hta/bin/pip install HolisticTraceAnalysis
    python benchmarks/trace_vs_hta.py --hta-python hta/bin/python --megabytes 100

HTA loads the trace and computes its idle-time and kernel breakdowns; `summarize` computes its whole summary. The two
take turns, each in its own process, so that other work on the machine disturbs both alike. The best run of each counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from trace_scale import measured, write_large

HTA = """
import json, sys, time
began = time.perf_counter()
from hta.trace_analysis import TraceAnalysis
analyzer = TraceAnalysis(trace_dir=sys.argv[1])
analyzer.get_idle_time_breakdown(ranks=[0], visualize=False)
analyzer.get_gpu_kernel_breakdown(visualize=False)
seconds = time.perf_counter() - began
peak_kb = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print("RESULT " + json.dumps({"seconds": round(seconds, 3), "peak_mb": round(peak_kb / 1024, 1)}))
"""


def hta(python: str, folder: Path) -> dict[str, float]:
    """Return seconds and peak MB of HTA, imports included."""
    done = subprocess.run([python, "-c", HTA, str(folder)], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"HTA failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hta-python", default=sys.executable, help="Python that has HTA [default: this Python]")
    parser.add_argument("--megabytes", type=float, default=100.0, help="size of the trace in MB [default: %(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each [default: %(default)s]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rank0.json"
        write_large(path, int(args.megabytes * 1e6))
        plain = b'"schemaVersion": 1,'
        text = path.read_bytes().replace(plain, plain + b' "distributedInfo": {"rank": 0},', 1)
        path.write_bytes(text)
        del text
        contenders = {
            "roseinfer": lambda: measured("summarize", path),
            "HTA": lambda: hta(args.hta_python, Path(folder)),
        }
        best: dict[str, dict[str, float]] = {}
        for _ in range(args.repeats):
            for name, run in contenders.items():
                found = run()
                print(f"{name:10s} {found['seconds']:7.2f} s {found['peak_mb']:8.1f} MB")
                known = best.setdefault(name, found)
                best[name] = {key: min(known[key], found[key]) for key in ("seconds", "peak_mb")}
        ratios = {key: best["HTA"][key] / best["roseinfer"][key] for key in ("seconds", "peak_mb")}
        print(f"best of each: {ratios['seconds']:.1f}x the time, {ratios['peak_mb']:.1f}x the memory")


if __name__ == "__main__":
    main()
