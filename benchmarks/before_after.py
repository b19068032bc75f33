"""Compare the speed of another checkout of roseinfer with this one, in alternating processes on one machine.

    python -m benchmarks.before_after CHECKOUT [--rounds 3] [--repeats 3] [--only NAME ...]

CHECKOUT is the root of the older code, such as a `git worktree` of an earlier commit. With a GPU, the cells are the
decode steps and offline loads of `benchmarks.gpu`; without one, the config `latency` in the file's own quantization,
in bfloat16, and without compiled kernels. Every round runs both checkouts in fresh processes, in alternating order.
The ratios compare the best of all rounds, which noise from other programs affects least. Prints Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import BATCHES, MODELS, decode, load

_LATENCY = ["--config", "latency"]
_CPU_CELLS = {
    "latency": _LATENCY,
    "latency, bfloat16": [*_LATENCY, "--dtype", "bfloat16", "--quantize", "none"],
    "latency, torch only": [*_LATENCY, "--no-compile"],
}


class Figures(NamedTuple):
    """Figures of one process."""

    step_ms: float
    """Median decode step in ms."""
    tokens_per_s: float
    """Completion tokens per second of the best repeat."""


def cells(has_gpu: bool) -> dict[str, list[str]]:
    """Return the options of `roseinfer bench` per cell."""
    if not has_gpu:
        return _CPU_CELLS
    decodes = {f"{model}, batch {batch}": decode(model, batch) for model in MODELS for batch in BATCHES}
    return decodes | {f"{model}, offline load": load(model) for model in MODELS}


def measure(checkout: Path, options: list[str], repeats: int) -> Figures:
    """Run one cell in a fresh process of a checkout. Exits with the process's error if it fails."""
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "roseinfer", "bench", "--json", *options, "--repeats", str(repeats)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr.strip()}")
    run = json.loads(done.stdout)["runs"][0]
    return Figures(run["decode"]["median_step_ms"], run["completion_tokens_per_s"]["max"])


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="root of the older checkout")
    parser.add_argument("--rounds", type=int, default=3, help="processes per checkout and cell [default: %(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes per process [default: %(default)s]")
    known = cells(torch.cuda.is_available())
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=f"cells to run, of: {list(known)}")
    arguments = parser.parse_args()
    before, after = arguments.checkout.resolve(), Path(__file__).resolve().parents[1]
    print("| | step before, ms | after | ratio | tokens/s before | after | ratio |\n|---|---|---|---|---|---|---|")
    for name in arguments.only or known:
        found: dict[Path, list[Figures]] = {before: [], after: []}
        for number in range(arguments.rounds):
            for checkout in (before, after) if number % 2 == 0 else (after, before):
                found[checkout].append(measure(checkout, known[name], arguments.repeats))
        old, new = (min(figures.step_ms for figures in found[checkout]) for checkout in (before, after))
        slow, fast = (max(figures.tokens_per_s for figures in found[checkout]) for checkout in (before, after))
        row = (
            name,
            f"{old:.3f}",
            f"{new:.3f}",
            f"{new / old:.3f}",
            f"{slow:,.0f}",
            f"{fast:,.0f}",
            f"{fast / slow:.3f}",
        )
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
