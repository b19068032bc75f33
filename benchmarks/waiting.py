"""Compare ways in which CPU threads wait for each other, on an idle machine and beside one busy process.

    python -m benchmarks.waiting [--pairs 10] [--ways shipped "GOMP_SPINCOUNT=0"]

The way `shipped` is what roseinfer chooses, and `-` is that of GNU OpenMP itself. Each pair runs every way once on
the idle machine, and once beside a process that computes without end, in turn. Prints the completion tokens per second
of the demo model, the medians, and their ratio to the first way on the idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from roseinfer.thread_waiting import CHOICES

_BENCH = ("bench", "--repeats", "3", "--json", "--quiet", "--compile")


def _tokens_per_s(way: str, arguments: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    if "=" in way:
        name, _, value = way.partition("=")
        environment[name] = value
    elif way == "-":
        # A value that GNU OpenMP ignores keeps roseinfer from setting its own.
        environment["OMP_WAIT_POLICY"] = "default"
    call = [sys.executable, "-m", "roseinfer", *_BENCH, *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, check=True)
    return float(json.loads(done.stdout)["runs"][0]["completion_tokens_per_s"]["median"])


def main() -> None:
    """Run the pairs and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10, help="runs of each way [default: %(default)s]")
    parser.add_argument("--ways", nargs="+", default=["shipped", "-", "GOMP_SPINCOUNT=0"])
    parser.add_argument("arguments", nargs="*", help="further options of bench, after --")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {way: {"idle": [], "busy": []} for way in options.ways}
    for _ in range(options.pairs):
        for state in ("idle", "busy"):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if state == "busy" else None
            try:
                for way in options.ways:
                    found[way][state].append(_tokens_per_s(way, options.arguments))
                    print(f"{state}, {way}: {found[way][state][-1]:.1f} tokens/s", file=sys.stderr, flush=True)
            finally:
                if busy is not None:
                    busy.kill()
                    busy.wait()
    medians = {way: {state: statistics.median(runs) for state, runs in states.items()} for way, states in found.items()}
    best = medians[options.ways[0]]["idle"]
    ratios = {way: {state: round(value / best, 3) for state, value in each.items()} for way, each in medians.items()}
    print(json.dumps({"tokens_per_s": found, "medians": medians, "of_the_first_way_idle": ratios}, indent=2))


if __name__ == "__main__":
    main()
