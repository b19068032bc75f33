"""Compare the logits of long prompts with transformers, for every architecture, on tiny random models in float32.

    python benchmarks/long_prompt_logits.py [--tokens 5000] [--only NAME ...]

The models are those of tests/architecture_models.py, with a longer context. Each prompt is computed in chunks, and a
few tokens are decoded after it. Prints the largest difference of any logit, and exits with 1 if one exceeds 1e-4.
Models whose positions depend on the length of the request, by dynamic scaling or LongRoPE, are left out.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from architecture_models import MODELS, engine_logits, random_model, random_prompt, transformers_logits

_BOUND = 1e-4
_NEW_TOKENS = 5
_UNLIKE = ("dynamic", "longrope")


def difference(name: str, tokens: int) -> float:
    """Return the largest difference between the logits of the engine and of transformers, over all positions."""
    model = random_model(name, **longer(name, tokens + _NEW_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        settings = {"max_batch_tokens": 2048, "max_model_len": tokens + _NEW_TOKENS}
        ((token_ids, logits),) = engine_logits(Path(folder), [random_prompt(tokens)], _NEW_TOKENS, **settings)
    return float((logits - transformers_logits(model, token_ids)).abs().max())


def longer(name: str, tokens: int) -> dict[str, int]:
    """Return the config fields that extend a model's context. Scaled rotations keep their trained length."""
    if name.startswith("gpt2"):
        return {"n_positions": tokens}
    factor = 4 if "rope_parameters" in MODELS[name] and "max_position_embeddings" in MODELS[name] else 1
    return {"max_position_embeddings": -(-tokens // factor)}


def main() -> int:
    """Compare all models; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--only", nargs="+", default=[name for name in MODELS if not name.endswith(_UNLIKE)])
    arguments = parser.parse_args()
    worst = 0.0
    for name in arguments.only:
        began = time.perf_counter()
        found = difference(name, arguments.tokens)
        worst = max(worst, found)
        print(f"{name:45} {found:.1e} {time.perf_counter() - began:6.1f} s", flush=True)
    print(f"worst: {worst:.1e}, with torch {torch.__version__}")
    return int(worst >= _BOUND)


if __name__ == "__main__":
    sys.exit(main())
