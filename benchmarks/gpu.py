"""Decode steps on a GPU, beside what the device reaches in a copy and a matrix product.

    python -m benchmarks.gpu [--repeats 3]

bf16, random weights, greedy, prompts of 128 tokens, 256 new ones; each configuration in a process of its own. Prints
Markdown, then JSON.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

_MODELS = ("gpt2", "qwen3-0.6b", "llama-3-8b")
_BATCHES = (1, 64)


def measure(model: str, batch: int, repeats: int) -> dict[str, Any]:
    """One configuration, by `roseinfer bench`; its error line where it fails."""
    command = [sys.executable, "-m", "roseinfer", "bench", "--json", "--model", model, "--load-format", "dummy"]
    command += ["--mode", "offline", "--prompt-length", "128", "--max-new-tokens", "256", "--dtype", "bfloat16"]
    command += ["--max-batch-size", str(batch), "--num-requests", str(batch), "--max-model-len", "1024"]
    done = subprocess.run([*command, "--repeats", str(repeats)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"model": model, "batch": batch, "error": done.stderr.strip().splitlines()[-1]}
    document = json.loads(done.stdout)
    run = document["runs"][0]
    return {
        "model": model,
        "batch": batch,
        "median_step_ms": round(run["decode"]["median_step_ms"], 3),
        "mbu_percent": round(run["decode"]["mbu_percent"], 1),
        "completion_tokens_per_s": round(run["completion_tokens_per_s"]["median"], 1),
        "startup_s": round(run["startup_s"], 1),
        "environment": document["environment"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [measure(model, batch, arguments.repeats) for model in _MODELS for batch in _BATCHES]
    print("| model | batch | decode step, ms | MBU % | tokens/s | ready, s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        names = ("model", "batch", "median_step_ms", "mbu_percent", "completion_tokens_per_s", "startup_s")
        print("| " + " | ".join(str(row.get(name, row.get("error", ""))) for name in names) + " |")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
