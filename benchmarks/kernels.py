"""Time every GPU kernel against torch, cuBLAS included, at the decode shapes of three models.

    python -m benchmarks.kernels [--variants]
    python -m benchmarks.kernels --tune [--seconds 150] [--rows 1,64] [--models gpt2,llama-3-8b] [--tensor-parallel 2]

Each figure is the time of one call in a CUDA graph of many calls, on inputs that together exceed the device's caches. A
kernel that fails has the error in its row. With --tune, the script instead times the linear layers' tiles inside the
models' layers and stores the fastest for later processes; with --tensor-parallel, inside the layers of one rank. Prints
one JSON document.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import torch
import torch.nn.functional as F

from benchmarks.tune_linears import tune_linears
from roseinfer.config import SamplingParams
from roseinfer.kernels import activations
from roseinfer.kernels.attention.decode_tiles import DecodeTiles
from roseinfer.kernels.attention.paged_decode import paged_decode_attention, paged_decode_attention_triton
from roseinfer.kernels.attention.projection import AttentionLayer, Projection
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.kernels.linear.skinny_linear import skinny_linear
from roseinfer.kernels.norms import Norm, add_layer_norm, add_layer_norm_reference, add_rms_norm, add_rms_norm_reference
from roseinfer.kernels.tuning import replay_us, tuned
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.shapes import SHAPES
from roseinfer.models.tensor_parallel import Division, padded_rows
from roseinfer.sampling.sampler import SamplingBatch, sample, sample_reference

MODELS = ("gpt2", "qwen3-0.6b", "llama-3-8b")
DTYPE = torch.bfloat16
BLOCK_SIZE = 16
CONTEXT = 256
CACHE_BYTES = 1 << 27
"""Bytes of inputs read in turn: more than a device's caches hold."""
SECONDS = 85


class Rows:
    """Rows measured so far; measuring stops after SECONDS."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._end = time.monotonic() + SECONDS

    def add(
        self, kernel: str, model: str, batch: int, moved_bytes: float, **ways: Callable[[], Callable[[int], Any]]
    ) -> None:
        """Time each implementation and add its row.

        An implementation is a function that allocates inputs and returns a call, which takes the index of the inputs.
        """
        row: dict[str, Any] = {"kernel": kernel, "model": model, "batch": batch, "bytes": round(moved_bytes)}
        for way, make in ways.items():
            if time.monotonic() > self._end:
                row[way] = "not run: out of time"
                continue
            try:
                call = make()
                copies = copies_of(moved_bytes)
                calls = max(copies, 12)
                us = replay_us(partial(repeat, call, calls, copies), runs=5) / calls
                row[way] = {"us": round(us, 2), "tb_per_s": round(moved_bytes / us / 1e6, 3)}
            except Exception as error:  # report it and measure the other kernels
                row[way] = f"{type(error).__name__}: {str(error)[:200]}"
            torch.cuda.empty_cache()
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)


def repeat(call: Callable[[int], Any], calls: int, copies: int) -> None:
    for index in range(calls):
        call(index % copies)


def copies_of(moved_bytes: float) -> int:
    return max(2, min(40, int(CACHE_BYTES / max(moved_bytes, 1))))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=DTYPE)


def linears(rows: Rows, name: str, config: ModelConfig, batch: int) -> None:
    hidden, heads = config.hidden_size, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    gated = config.activation == "silu"
    shapes = {
        "qkv": (heads + 2 * kv, hidden),
        "output": (hidden, heads),
        "gate_up" if gated else "up": (config.intermediate_size * (2 if gated else 1), hidden),
        "down": (hidden, config.intermediate_size),
        "head": (config.vocab_size, hidden),
    }
    gain = random(hidden)
    for part, (outputs, size) in shapes.items():
        moved = 2 * (outputs * size + batch * (outputs + size))

        def inputs(
            outputs: int = outputs, size: int = size, moved: int = moved
        ) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return random(batch, size), [random(outputs, size) for _ in range(copies_of(moved))]

        def cublas(inputs: Any = inputs) -> Callable[[int], Any]:
            x, weights = inputs()
            return lambda index: F.linear(x, weights[index])

        def ours(inputs: Any = inputs) -> Callable[[int], Any]:
            x, weights = inputs()
            return lambda index: skinny_linear(x, weights[index])

        def fused(inputs: Any = inputs, part: str = part, outputs: int = outputs) -> Callable[[int], Any]:
            x, weights = inputs()
            into = part in ("output", "down")
            options: dict[str, Any] = {
                "norm": None if into else Norm(gain, 1e-6, None, not gated),
                "residual": random(batch, outputs) if into else None,
                "activation": {"gate_up": "silu_and_mul", "up": "gelu_tanh"}.get(part),
            }
            return lambda index: skinny_linear(x, weights[index], **options)

        rows.add(f"linear {part} {outputs}x{size}", name, batch, moved, torch=cublas, triton=ours, fused=fused)


def attention(rows: Rows, name: str, config: ModelConfig, batch: int, *, variants: bool) -> None:
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    per_request = CONTEXT // BLOCK_SIZE
    moved = 2 * 2 * batch * CONTEXT * kv_heads * head_dim
    copies = copies_of(moved)
    max_blocks = config.max_position_embeddings // BLOCK_SIZE
    q = random(batch, heads, head_dim)
    lengths = torch.full((batch,), CONTEXT - 3, dtype=torch.int32, device="cuda")
    tables = torch.zeros(batch, min(max_blocks, 512), dtype=torch.int32, device="cuda")
    tables[:, :per_request] = torch.randperm(batch * per_request, device="cuda").view(batch, -1)

    def caches() -> list[torch.Tensor]:
        return [random(2, batch * per_request, BLOCK_SIZE, kv_heads, head_dim) for _ in range(copies)]

    def ours() -> Callable[[int], Any]:
        data = caches()
        return lambda index: paged_decode_attention(q, data[index][0], data[index][1], tables, lengths)

    def with_tiles(tiles: DecodeTiles) -> Callable[[int], Any]:
        data = caches()
        return lambda index: paged_decode_attention_triton(
            q, data[index][0], data[index][1], tables, lengths, tiles=tiles
        )

    def dense() -> Callable[[int], Any]:
        """Return torch's attention on contiguous keys and values, which is less work than the paged kernel's."""
        data = [random(2, batch, kv_heads, CONTEXT, head_dim) for _ in range(copies)]
        query = q.unsqueeze(2)
        return lambda index: F.scaled_dot_product_attention(query, data[index][0], data[index][1], enable_gqa=True)

    others = {
        f"tile{tile} splits{splits} warps{warps} stages{stages}": partial(
            with_tiles, DecodeTiles(tile, splits, warps, stages)
        )
        for tile, splits, warps, stages in (
            (16, 32, 1, 3),
            (16, 4, 1, 3),
            (32, 16, 4, 3),
            (64, 1, 4, 3),
            (64, 1, 4, 5),
            (128, 8, 8, 3),
        )
    }
    rows.add(
        f"decode attention, {CONTEXT} tokens",
        name,
        batch,
        moved,
        torch=dense,
        triton=ours,
        **(others if variants else {}),
    )


def small(rows: Rows, name: str, config: ModelConfig, batch: int) -> None:
    hidden, heads, kv_heads, head_dim = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
    x, residual, gain = random(batch, hidden), random(batch, hidden), random(hidden)
    if config.activation == "silu":
        norm, reference = partial(add_rms_norm, eps=1e-6), partial(add_rms_norm_reference, eps=1e-6)
        kind, width = "silu_and_mul", 2 * config.intermediate_size
    else:
        norm = partial(add_layer_norm, bias=gain, eps=1e-5)
        reference = partial(add_layer_norm_reference, bias=gain, eps=1e-5)
        kind, width = "gelu_tanh", config.intermediate_size
    rows.add(
        "norm with residual",
        name,
        batch,
        2 * 4 * batch * hidden,
        torch=lambda: lambda _: reference(x, residual, gain),
        triton=lambda: lambda _: norm(x, residual, gain),
    )
    wide = random(batch, width)
    plain, ours = getattr(activations, f"{kind}_reference"), getattr(activations, kind)
    rows.add(
        kind, name, batch, 4 * batch * width, torch=lambda: lambda _: plain(wide), triton=lambda: lambda _: ours(wide)
    )

    qkv = random(batch, (heads + 2 * kv_heads) * head_dim)
    table = None if config.rope is None else random(1024, head_dim)
    norms = (random(head_dim), random(head_dim)) if config.qk_norm else (None, None)
    cache = random(2, 2 * batch + 1, BLOCK_SIZE, kv_heads, head_dim)
    positions = torch.arange(batch, device="cuda")
    slots = positions * BLOCK_SIZE + 3
    layer = AttentionLayer(0, config.attention_specs[0], table, *norms)
    projection = Projection(qkv, positions, layer)

    def unfused(_: int) -> torch.Tensor:
        split = qkv.view(batch, -1, head_dim)
        rotated = split[:, : heads + kv_heads]
        if norms[0] is not None:
            rotated = F.rms_norm(rotated, (head_dim,), norms[0], 1e-6)
        if table is not None:
            cos, sin = table[positions].unsqueeze(1).chunk(2, dim=-1)
            first, second = rotated.chunk(2, dim=-1)
            rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        flat = cache.flatten(1, 2)
        flat[0].index_copy_(0, slots, rotated[:, heads:])
        flat[1].index_copy_(0, slots, split[:, heads + kv_heads :])
        return rotated[:, :heads]

    rows.add(
        "rope and append",
        name,
        batch,
        2 * 2 * qkv.numel(),
        torch=lambda: unfused,
        triton=lambda: lambda _: rope_append(projection, slots, cache[0], cache[1]),
    )

    logits = random(batch, config.vocab_size)
    params = [SamplingParams(temperature=0.9, top_k=40, top_p=0.9)] * batch
    draws = SamplingBatch.build(params, range(batch), range(batch), logits.device)
    rows.add(
        "top-k draw",
        name,
        batch,
        2 * logits.numel(),
        torch=lambda: lambda _: sample_reference(logits, draws),
        triton=lambda: lambda _: sample(logits, draws),
    )


def rank_config(config: ModelConfig, ranks: int) -> ModelConfig:
    """Return the model that one of several ranks runs."""
    part = Division(config, 0, ranks).config
    return msgspec.structs.replace(part, vocab_size=padded_rows(config.vocab_size, ranks))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="tune the tiles of the linear layers and store the best")
    parser.add_argument("--seconds", type=float, default=150, help="time limit of --tune in s [default: %(default)s]")
    parser.add_argument("--rows", default="1,64", help="batch sizes to tune for [default: %(default)s]")
    parser.add_argument("--models", default=",".join(MODELS), help="built-in shapes to tune for [default: %(default)s]")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="ranks to tune for [default: %(default)s]")
    parser.add_argument("--jobs", type=int, default=8, help="kernels to compile in parallel [default: %(default)s]")
    parser.add_argument("--variants", action="store_true", help="time other tiles of decode attention too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.kernels needs a CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    about = {
        "device": torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
        "dtype": str(DTYPE).removeprefix("torch."),
    }
    if arguments.tune:
        ranks = arguments.tensor_parallel
        models = {name: SHAPES[name] for name in arguments.models.split(",")}
        if ranks > 1:
            models = {name: rank_config(config, ranks) for name, config in models.items()}
        counts = [int(count) for count in arguments.rows.split(",")]
        chains = tune_linears(
            models, counts, device, DTYPE, arguments.seconds, arguments.jobs, apart_from_norms=ranks > 1
        )
        print(json.dumps({**about, "chains": chains, "tuned": tuned(device)}))
        return
    rows = Rows()
    for batch in (1, 64):
        for name in MODELS:
            for part in (partial(attention, variants=arguments.variants), small, linears):
                try:
                    part(rows, name, SHAPES[name], batch)
                except Exception as error:  # the inputs cannot be built: report it and continue with the next part
                    rows.rows.append({"kernel": str(part), "model": name, "batch": batch, "error": str(error)[:200]})
    print(json.dumps({**about, "tuned": tuned(device), "rows": rows.rows}))


if __name__ == "__main__":
    main()
