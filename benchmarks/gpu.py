"""Measure decode steps and loads on a GPU, with the share of the device's measured ceilings that they reach.

    python -m benchmarks.gpu [--repeats 3] [--only decode|loads|tutorial]

Decode: bf16, random weights, greedy, 128 prompt tokens and 256 completion tokens per request. Loads: the configs
small-engines*. Tutorial: the config tutorial-gpt2, the run of the tutorial engine that this project started from, with
its own batch limit and with 16. Each configuration runs in its own process. Prints Markdown, then JSON.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

MODELS = ("gpt2", "qwen3-0.6b", "llama-3-8b")
BATCHES = (1, 64)
_LOADS = {"gpt2": "small-engines-gpt2", "qwen3-0.6b": "small-engines", "llama-3-8b": "small-engines"}


def decode(model: str, batch: int) -> list[str]:
    options = ["--model", model, "--load-format", "dummy", "--mode", "offline", "--dtype", "bfloat16"]
    options += ["--prompt-length", "128", "--max-new-tokens", "256", "--max-model-len", "1024"]
    return [*options, "--max-batch-size", str(batch), "--num-requests", str(batch)]


def load(model: str) -> list[str]:
    return ["--config", _LOADS[model], "--model", model, "--dtype", "bfloat16"]


def tutorial(batch_limit: int) -> list[str]:
    return ["--config", "tutorial-gpt2", "--max-batch-size", str(batch_limit)]


def measure(name: str, options: list[str], repeats: int) -> dict[str, Any]:
    """Return the figures of one configuration from `roseinfer bench`, or its error line if it fails."""
    command = [sys.executable, "-m", "roseinfer", "bench", "--json", *options, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-1]}
    document = json.loads(done.stdout)
    run = document["runs"][0]
    return {
        "name": name,
        "median_step_ms": round(run["decode"]["median_step_ms"], 3),
        "mbu_percent": round(run["decode"]["mbu_percent"], 1),
        "completion_tokens_per_s": round(run["completion_tokens_per_s"]["median"], 1),
        "slowest": round(run["completion_tokens_per_s"]["min"], 1),
        "fastest": round(run["completion_tokens_per_s"]["max"], 1),
        "decode_tokens_per_s": round(run["decode"]["tokens_per_s"], 1),
        # A prompt of one token has no prefill: the token is computed by a decode step.
        "prefill_tokens_per_s": None if run["prefill"] is None else round(run["prefill"]["tokens_per_s"], 1),
        "startup_s": round(run["startup_s"], 1),
        "environment": document["environment"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="passes per configuration [default: %(default)s]")
    parts = ("decode", "loads", "tutorial", "origin")
    parser.add_argument("--only", choices=parts, help="run one part [default: all]; `origin` means `tutorial`")
    arguments = parser.parse_args()
    only = "tutorial" if arguments.only == "origin" else arguments.only
    configurations = {
        "decode": {f"{model}, batch {batch}": decode(model, batch) for model in MODELS for batch in BATCHES},
        "loads": {f"{model}, offline load": load(model) for model in MODELS},
        "tutorial": {f"tutorial-gpt2, batch limit {limit}": tutorial(limit) for limit in (8, 16)},
    }
    rows = [
        measure(name, options, arguments.repeats)
        for part, each in configurations.items()
        for name, options in each.items()
        if only in (None, part)
    ]
    print("| | decode step, ms | MBU % | completion tokens/s | slowest | fastest | ready, s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        names = (
            "name",
            "median_step_ms",
            "mbu_percent",
            "completion_tokens_per_s",
            "slowest",
            "fastest",
            "startup_s",
        )
        print("| " + " | ".join(str(row.get(name, row.get("error", ""))) for name in names) + " |")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
