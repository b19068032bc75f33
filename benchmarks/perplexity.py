"""Measure a model's perplexity with its weights in each dtype and quantization.

    python benchmarks/perplexity.py
    python benchmarks/perplexity.py --model DIRECTORY --text FILE --forms bfloat16 int8

The text is cut into windows, one request per window; a window's first token is not scored. Each form is measured twice.
With chunks of many rows, quantized weights are dequantized before the product. With chunks of few rows, as in decode
steps, torch's low-bit kernels read them directly. Prints a Markdown table.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from roseinfer.config import DEMO_MODEL, EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.models.hidden_states import recorded_hidden_states

TEXT = Path(__file__).parents[1] / "tests" / "data" / "alice.txt"
FORMS: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32", "quantize": "none"},
    "bfloat16": {"dtype": "bfloat16", "quantize": "none"},
    "as in the file": {},
    "int8": {"dtype": "bfloat16", "quantize": "int8"},
    "int4": {"dtype": "bfloat16", "quantize": "int4"},
}
"""Engine settings of each row of the table; the other rows are compared with the first."""
MANY_ROWS, FEW_ROWS = 512, 8


def build(model: str, form: str, rows: int) -> Engine:
    """Return an engine that computes at most `rows` tokens per step."""
    settings = {"model": model, "device": "cpu", "prefix_cache": False, "max_batch_size": 1, **FORMS[form]}
    return build_engine(EngineConfig(**settings, max_batch_tokens=rows))  # type: ignore[arg-type]


@torch.inference_mode()
def perplexity(engine: Engine, token_ids: list[int], window: int) -> float:
    """Return exp of the tokens' mean negative log-likelihood, each given the tokens before it in its window."""
    model = engine.runner.model
    loss, count = 0.0, 0
    with recorded_hidden_states(model) as states:
        for start in range(0, len(token_ids) - 1, window):
            piece = token_ids[start : start + window]
            states.clear()
            engine.generate([piece], SamplingParams(max_new_tokens=1, stop_on_eos=False))
            hidden, targets = torch.cat(states)[: len(piece) - 1], torch.tensor(piece[1:])
            rows = engine.limits.max_batch_tokens
            for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
                loss += F.cross_entropy(model.logits(part).float(), wanted, reduction="sum").item()
            count += len(targets)
    return math.exp(loss / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL, help="model to measure [default: %(default)s]")
    parser.add_argument("--text", type=Path, default=TEXT, help="text file to score [default: %(default)s]")
    parser.add_argument("--window", type=int, default=512, help="tokens per window [default: %(default)s]")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="forms of the weights [default: all]"
    )
    arguments = parser.parse_args()
    print("| weights | bytes read per decode step | perplexity, many rows | few rows | against the first |")
    print("|---|---|---|---|---|")
    base = None
    for form in arguments.forms:
        found = []
        for rows in (MANY_ROWS, FEW_ROWS):
            engine = build(arguments.model, form, rows)
            token_ids = engine.encode(arguments.text.read_text(encoding="utf-8"))
            found.append(perplexity(engine, token_ids, arguments.window))
        base = base or found[0]
        read = engine.weight_bytes.layers + engine.weight_bytes.head
        change = ", ".join(f"{100 * (value / base - 1):+.2f} %" for value in found)
        print(f"| {form} | {read / 1e6:.1f} MB | {found[0]:.4f} | {found[1]:.4f} | {change} |", flush=True)
    text = f"{len(token_ids)} tokens of {arguments.text.name}"
    print(f"\n{text}, windows of {arguments.window}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
