"""Measure what Ray costs one engine: `generate --ray local --actors 1` against `generate` on the same prompts.

    python -m benchmarks.ray_overhead [--rounds 3] [--requests 64] [--new-tokens 64] [--model MODEL]

Each round runs both in fresh processes, in alternating order. Times run from the first request to the last written
answer, so they exclude the start of Ray, and building the engine. Both compute the same number of tokens. A last run,
of `bench --ray`, gives the share of its time in which the engine had a request. Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any


def roseinfer(*arguments: object) -> dict[str, Any]:
    """Run a command in a fresh process, and return the JSON that it prints. Exits with its error if it fails."""
    command = [sys.executable, "-m", "roseinfer", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs [default: %(default)s]")
    parser.add_argument("--requests", type=int, default=64, help="requests per run [default: %(default)s]")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens per answer [default: %(default)s]")
    parser.add_argument("--model", help="model [default: the demo model]")
    given = parser.parse_args()
    model = ["--model", given.model] if given.model else []
    on_ray = ["--ray", "local", "--actors", 1]
    ratios = []
    print("| round | without Ray, tokens/s | one actor, tokens/s | overhead |\n|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="roseinfer-ray-overhead-") as folder:
        requests = Path(folder) / "requests.jsonl"
        lines = [{"prompt": f"Tell a story about the number {number}."} for number in range(given.requests)]
        requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for number in range(given.rounds):
            rates = {}
            for name, options in (("plain", []), ("ray", on_ray))[:: -1 if number % 2 else 1]:
                output = Path(folder) / f"{name}-{number}.jsonl"
                call = ["generate", "--input", requests, "--output", output, *model, *options]
                document = roseinfer(
                    *call, "--max-new-tokens", given.new_tokens, "--no-stop-on-eos", "--temperature", 0
                )
                rates[name] = document["statistics"]["completion_tokens_per_s"]
            ratios.append(rates["plain"] / rates["ray"] - 1)
            print(f"| {number + 1} | {rates['plain']:,.1f} | {rates['ray']:,.1f} | {ratios[-1]:.1%} |", flush=True)
    load = ["--num-requests", given.requests, "--max-new-tokens", given.new_tokens, "--repeats", 1]
    [actor] = roseinfer("bench", *model, *load, *on_ray)["job"]["actors"]
    print(
        f"\nmedian overhead {median(ratios):.1%}; the engine had requests for {actor['busy_percent']:.1f} % of its time"
    )


if __name__ == "__main__":
    main()
