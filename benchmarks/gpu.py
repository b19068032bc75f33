"""Measure decode steps, prompts and loads on a GPU, with the share of the device's measured ceilings that they reach.

    python -m benchmarks.gpu [--repeats 3] [--only decode|prompts|loads|online|experts|tutorial] [--record]

Decode: bf16, random weights, greedy, 128 prompt tokens and 256 completion tokens per request. Prompts: bf16, random
weights, greedy, 64 or 128 completion tokens per request, all requests at once, and the engine's own limits. Loads: the
configs small-engines*. Online: prompts of 1,000 tokens that arrive by a Poisson process, with a bound of the ITL.
Experts: decode steps and prompts of models with experts. Tutorial: the config tutorial-gpt2, the run of the tutorial
engine that this project started from, with its own batch limit and with 16.

Each configuration runs in its own process. Prints a Markdown table per part, a row as soon as it is measured, then
JSON. `--record` needs `--only prompts`: the other tables are copied into `benchmarks/results/gpu.md` by hand.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.record_option import add_record_options, check_record_options, write_record

MODELS = ("gpt2", "qwen3-0.6b", "llama-3-8b")
BATCHES = (1, 64)
_LOADS = {"gpt2": "small-engines-gpt2", "qwen3-0.6b": "small-engines", "llama-3-8b": "small-engines"}

PROMPTS = {
    "qwen3-0.6b": ((1, 4096, 64), (1, 16384, 64), (16, 4096, 64)),
    "llama-3-8b": ((1, 1024, 64), (1, 7936, 64), (16, 4096, 64), (128, 512, 128)),
}
"""(requests, prompt tokens, completion tokens) of each measurement, by model."""

ONLINE = {"llama-3-8b": (14.0, 100.0)}
"""(requests per second, bound of the ITL in ms) by model. The rate is about 70 % of what an H200 serves, as
estimated from its rates of prompts and decodes."""
ONLINE_REQUESTS = 150

EXPERTS = {"qwen3-30b-a3b": (1, 64, 256), "gpt-oss-20b": (1, 64)}
"""Batch sizes of decode steps, by model."""

_RECORD = "gpu-prompts.md"

_COLUMNS = {
    "decode step, ms": "median_step_ms",
    "MBU %": "mbu_percent",
    "completion tokens/s": "completion_tokens_per_s",
    "slowest": "slowest",
    "fastest": "fastest",
    "ready, s": "startup_s",
}
_ONLINE_COLUMNS = {
    "first token p50, ms": "ttft_ms",
    "first token p99, ms": "ttft_p99_ms",
    "ITL p99, ms": "itl_p99_ms",
    **_COLUMNS,
}
_PROMPT_COLUMNS = {
    "first token, ms": "ttft_ms",
    "prompt tokens/s": "prefill_tokens_per_s",
    "prompt MFU %": "mfu_percent",
    "prompt steps": "prefill_steps",
    **_COLUMNS,
}


def decode(model: str, batch: int) -> list[str]:
    options = ["--model", model, "--load-format", "dummy", "--mode", "offline", "--dtype", "bfloat16"]
    options += ["--prompt-length", "128", "--max-new-tokens", "256", "--max-model-len", "1024"]
    return [*options, "--max-batch-size", str(batch), "--num-requests", str(batch)]


def prompts(model: str, requests: int, prompt: int, completion: int) -> list[str]:
    options = ["--model", model, "--load-format", "dummy", "--mode", "offline", "--dtype", "bfloat16"]
    options += ["--prompt-length", str(prompt), "--max-new-tokens", str(completion), "--no-stop-on-eos"]
    return [*options, "--num-requests", str(requests)]


def online(model: str, rate: float, bound_ms: float) -> list[str]:
    options = ["--model", model, "--load-format", "dummy", "--mode", "online", "--dtype", "bfloat16"]
    options += ["--prompt-length", "1000", "--max-new-tokens", "200", "--no-stop-on-eos"]
    options += ["--num-requests", str(ONLINE_REQUESTS), "--request-rate", str(rate)]
    return [*options, "--max-itl-ms", str(bound_ms)]


def experts(model: str, batch: int) -> list[str]:
    return [*decode(model, batch), "--no-stop-on-eos"]


def load(model: str) -> list[str]:
    return ["--config", _LOADS[model], "--model", model, "--dtype", "bfloat16"]


def tutorial(batch_limit: int) -> list[str]:
    return ["--config", "tutorial-gpt2", "--max-batch-size", str(batch_limit)]


def parts() -> dict[str, dict[str, list[str]]]:
    """Return the options of `roseinfer bench` for each configuration, by part and by name."""
    return {
        "decode": {f"{model}, batch {batch}": decode(model, batch) for model in MODELS for batch in BATCHES},
        "prompts": {
            f"{model}, {requests} x {prompt:,} + {completion}": prompts(model, requests, prompt, completion)
            for model, sizes in PROMPTS.items()
            for requests, prompt, completion in sizes
        },
        "loads": {f"{model}, offline load": load(model) for model in MODELS},
        "online": {
            f"{model}, {rate:g} requests/s, ITL at most {bound:g} ms": online(model, rate, bound)
            for model, (rate, bound) in ONLINE.items()
        },
        "experts": {
            **{f"{model}, batch {batch}": experts(model, batch) for model, sizes in EXPERTS.items() for batch in sizes},
            **{f"{model}, 1 x 4,096 + 64": prompts(model, 1, 4096, 64) for model in EXPERTS},
        },
        "tutorial": {f"tutorial-gpt2, batch limit {limit}": tutorial(limit) for limit in (8, 16)},
    }


def measure(name: str, options: list[str], repeats: int) -> dict[str, Any]:
    """Return the figures of one configuration from `roseinfer bench`, or its error line if it fails."""
    command = [sys.executable, "-m", "roseinfer", "bench", "--json", *options, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-1]}
    return {"name": name, **figures(json.loads(done.stdout))}


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a document of `bench --json` with one run.

    A prompt of one token has no prefill: a decode step computes the token. Prompts that are spread over decode steps
    have none either, since prefill counts the steps without decodes.
    """
    run = document["runs"][0]
    prefill = run["prefill"]
    return {
        "median_step_ms": round(run["decode"]["median_step_ms"], 3),
        "mbu_percent": round(run["decode"]["mbu_percent"], 1),
        "completion_tokens_per_s": round(run["completion_tokens_per_s"]["median"], 1),
        "slowest": round(run["completion_tokens_per_s"]["min"], 1),
        "fastest": round(run["completion_tokens_per_s"]["max"], 1),
        "decode_tokens_per_s": round(run["decode"]["tokens_per_s"], 1),
        "ttft_ms": round(run["ttft_ms"]["p50"], 1),
        "ttft_p99_ms": round(run["ttft_ms"]["p99"], 1),
        "itl_p99_ms": None if run["itl_ms"] is None else round(run["itl_ms"]["p99"], 1),
        "prefill_tokens_per_s": None if prefill is None else round(prefill["tokens_per_s"]),
        "mfu_percent": None if prefill is None else round(prefill["mfu_percent"], 1),
        "prefill_steps": None if prefill is None else prefill["steps"],
        "startup_s": round(run["startup_s"], 1),
        "limits": document["limits"],
        "environment": document["environment"],
    }


def heading(part: str) -> str:
    """Return the heading of a part's Markdown table."""
    columns = _columns(part)
    return "| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|"


def line(part: str, row: dict[str, Any]) -> str:
    """Return one row of a part's Markdown table."""
    keys = _columns(part).values()
    cells = [str("-" if (cell := row.get(key, row.get("error"))) is None else cell) for key in keys]
    return f"| {row['name']} | " + " | ".join(cells) + " |"


def table(part: str, rows: list[dict[str, Any]]) -> str:
    """Return the rows of one part as a Markdown table."""
    return "\n".join([heading(part), *(line(part, row) for row in rows)])


def _columns(part: str) -> dict[str, str]:
    return {"prompts": _PROMPT_COLUMNS, "experts": _PROMPT_COLUMNS, "online": _ONLINE_COLUMNS}.get(part, _COLUMNS)


def prompt_record(rows: list[dict[str, Any]], repeats: int) -> str:
    """Return the record of the part `prompts`: where it was measured, and its table."""
    environment = next((row["environment"] for row in rows if "environment" in row), None)
    if environment is None:
        raise SystemExit(f"nothing was measured: {rows[0]['error']}")
    versions, ceilings = environment["versions"], environment["ceilings"]
    return f"""# Prompts on a GPU

    python -m benchmarks.gpu --only prompts --repeats {repeats} --record

{time.strftime("%Y-%m-%d", time.gmtime())}, {environment["device"]}, torch {versions["torch"]}, triton \
{versions["triton"]}, commit {str(versions["git_commit"])[:7]}. bf16, random weights, greedy, all requests at once, the
engine's own limits of a step. First token is the median over requests. Completion tokens/s is the median of {repeats}
repeats; "slowest" and "fastest" are their range. Prompt steps are those without decodes, and prompt MFU is theirs. It
counts logits for the tokens that are drawn only. Ceilings, measured in the first call: copy \
{ceilings["copy_bytes_per_s"] / 1e12:.2f} TB/s, bf16 matrix
product {ceilings["flops_per_s"] / 1e12:.0f} TFLOP/s.

{table("prompts", rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="passes per configuration [default: %(default)s]")
    names = [*parts(), "origin"]
    parser.add_argument("--only", choices=names, help="run one part [default: all]; `origin` means `tutorial`")
    add_record_options(parser, f"{_RECORD}, with --only prompts")
    arguments = parser.parse_args()
    check_record_options(parser, arguments)
    only = "tutorial" if arguments.only == "origin" else arguments.only
    if (arguments.record or arguments.output) and only != "prompts":
        parser.error("--record and --output write the table of prompts: add --only prompts")
    rows: list[dict[str, Any]] = []
    for part, configurations in parts().items():
        if only in (None, part):
            print(f"## {part}\n\n{heading(part)}", flush=True)
            for name, options in configurations.items():
                rows.append(measure(name, options, arguments.repeats))
                print(line(part, rows[-1]), flush=True)  # as they come: a time limit must not lose them
            print(flush=True)
    print(json.dumps(rows, indent=1))
    if arguments.record or arguments.output:
        write_record(arguments, _RECORD, prompt_record(rows, arguments.repeats))


if __name__ == "__main__":
    main()
