"""Measure how long commands take to start, as a ratio to starting Python alone.

    python benchmarks/cold_start.py [--rounds 15]

Each round runs every command once, in turn, so that other load on the machine affects all of them alike. A ratio is the
median over the rounds of a command's time to the time of `python -c pass` in the same round. The first round, which
fills the file cache, does not count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import msgspec
from record_option import add_record_options, check_record_options, write_record

from roseinfer.workload.provenance import current_versions

ROOT = Path(__file__).resolve().parents[1]
TRACE = ROOT / "tests" / "trace" / "data" / "origin_gather_decode_h200.json.gz"
NAME = "cold_start.json"
BASE = "python -c pass"


def commands() -> dict[str, list[str]]:
    """Return the commands to start, by the name in the table."""
    roseinfer = [sys.executable, "-m", "roseinfer"]
    return {
        BASE: [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "import roseinfer": [sys.executable, "-c", "import roseinfer"],
        "roseinfer --help": [*roseinfer, "--help"],
        "roseinfer bench --help": [*roseinfer, "bench", "--help"],
        f"roseinfer summarize {TRACE.name}": [*roseinfer, "summarize", str(TRACE)],
        f"roseinfer summarize {TRACE.name} --json": [*roseinfer, "summarize", str(TRACE), "--json"],
    }


def seconds(command: list[str]) -> float:
    """Return the wall time of a process from its start to its end. Modules are compiled once, and read after that."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print a table of times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="times that each command runs [default: %(default)s]")
    add_record_options(parser, NAME)
    arguments = parser.parse_args()
    check_record_options(parser, arguments)
    if arguments.rounds < 1:
        parser.error("--rounds takes a number of 1 or more")
    rounds = [{name: seconds(command) for name, command in commands().items()} for _ in range(arguments.rounds + 1)][1:]
    rows = [
        {
            "command": name,
            "median_ms": round(1e3 * median(each[name] for each in rounds), 1),
            "ratio": round(median(each[name] / each[BASE] for each in rounds), 2),
        }
        for name in commands()
    ]
    for row in rows:
        print(f"{row['command']:<68} {row['median_ms']:>8} ms {row['ratio']:>7}x")
    versions = msgspec.to_builtins(current_versions())
    record = {"command": "python benchmarks/cold_start.py", "rounds": arguments.rounds, "versions": versions}
    write_record(arguments, NAME, json.dumps(record | {"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
