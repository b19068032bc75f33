"""Time paged prefill attention against torch's, for whole prompts and for chunks after cached tokens.

    python -m benchmarks.prefill [--variants]

torch and cuDNN read contiguous keys and values, which is less work than the paged kernel's. cuDNN's call is that of
`dense_attention`, for whole prompts. A figure that cannot be measured
holds the error instead. Prints one JSON document.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from benchmarks.kernels import BLOCK_SIZE, DTYPE, MODELS, random
from roseinfer.kernels.attention.dense_attention import dense_causal_attention, supports_dense
from roseinfer.kernels.attention.paged_prefill import paged_prefill_attention, paged_prefill_attention_triton
from roseinfer.kernels.attention.prefill_kernel import PrefillTiles
from roseinfer.kernels.tuning import replay_us
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.shapes import SHAPES

BATCHES = ((8, 0, 512), (1, 0, 4096), (16, 0, 4096), (1, 0, 16384), (4, 3584, 512), (16, 1000, 40), (64, 0, 128))
"""(requests, cached tokens per request, new tokens per request) of each measurement."""
CALLS = 12
VARIANTS = [
    PrefillTiles(*tiles)
    for tiles in (
        (64, 32, 4, 4),
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (64, 64, 4, 4),
        (128, 32, 8, 4),
        (128, 64, 8, 2),
        (128, 64, 8, 4),
        (128, 128, 8, 2),
    )
]


def ways(config: ModelConfig, requests: int, past: int, new: int) -> dict[str, Callable[[], Any]]:
    """Return one call per implementation and tiling, all on the same inputs."""
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    length = past + new
    blocks = -(-length // BLOCK_SIZE)
    q = random(requests * new, heads, head_dim)
    keys, values = random(2, requests * blocks, BLOCK_SIZE, kv_heads, head_dim)
    tables = torch.randperm(requests * blocks, device="cuda").to(torch.int32).view(requests, -1)
    starts = torch.arange(requests + 1, device="cuda", dtype=torch.int32) * new
    lengths = torch.full((requests,), length, dtype=torch.int32, device="cuda")
    arguments = (q, keys, values, tables, starts, lengths)
    dense = random(requests, heads, new, head_dim), *random(2, requests, kv_heads, length, head_dim)
    mask = causal_lower_right(new, length)
    calls: dict[str, Callable[[], Any]] = {
        "torch": partial(F.scaled_dot_product_attention, *dense, attn_mask=mask, enable_gqa=heads != kv_heads),
        "triton": partial(paged_prefill_attention, *arguments, max_query_len=new),
    }
    if past == 0 and supports_dense(q):
        fused = random(requests, new, heads + 2 * kv_heads, head_dim)
        calls["cudnn"] = partial(dense_causal_attention, *fused.split((heads, kv_heads, kv_heads), dim=2))
    for tiles in VARIANTS:
        name = f"rows{tiles.rows} keys{tiles.keys} warps{tiles.num_warps} stages{tiles.num_stages}"
        calls[name] = partial(paged_prefill_attention_triton, *arguments, max_query_len=new, tiles=tiles)
    return calls


def measured(call: Callable[[], Any], flops: float) -> Any:
    def repeat() -> None:
        for _ in range(CALLS):
            call()

    try:
        us = replay_us(repeat, runs=5) / CALLS
    except Exception as error:  # such as tiles that exceed the device's shared memory: measure the others
        return f"{type(error).__name__}: {str(error)[:200]}"
    return {"us": round(us, 2), "tflop_per_s": round(flops / us / 1e6, 1)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", action="store_true", help="measure other tiles too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.prefill needs a CUDA device")
    rows = []
    for name in MODELS:
        config = SHAPES[name]
        for requests, past, new in BATCHES:
            if past + new > config.max_position_embeddings:
                continue
            flops = 4.0 * requests * config.num_heads * config.head_dim * new * (past + (new + 1) / 2)
            row: dict[str, Any] = {"model": name, "requests": requests, "past": past, "new": new}
            for way, call in ways(config, requests, past, new).items():
                if arguments.variants or way in ("torch", "triton", "cudnn"):
                    row[way] = measured(call, flops)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    device = torch.cuda.get_device_name()
    print(json.dumps({"device": device, "torch": str(torch.__version__), "dtype": str(DTYPE), "rows": rows}))


if __name__ == "__main__":
    main()
