"""Run many requests through a KV cache that is far too small, and check that nothing is lost, leaked or changed.

    python -m benchmarks.soak [--requests 2000] [--device cuda --requests 10000 --alone 300]

The model is tiny and random, so most of the time is spent in the scheduler. Some prompts share a prefix; lengths,
sampling parameters and seeds are random; some requests are aborted. Completed requests run again, one at a time, in an
engine with enough blocks. On a CPU, in float64, their tokens must be the same. On a GPU, in float32 with CUDA graphs
and overlap, a token may differ if its draw is within the rounding error.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine

_BATCH, _BLOCK = 64, 16
_LONGEST_PROMPT, _LONGEST_COMPLETION = 240, 100
_SHAPE = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def _requests(count: int, rng: random.Random) -> list[tuple[list[int], SamplingParams]]:
    prefixes = [[rng.randrange(512) for _ in range(rng.randint(16, 160))] for _ in range(20)]
    requests = []
    for _ in range(count):
        prefix = rng.choice(prefixes) if rng.random() < 0.6 else []
        prompt = prefix + [rng.randrange(512) for _ in range(rng.randint(1, 80))]
        params = SamplingParams(
            max_new_tokens=rng.randint(0, _LONGEST_COMPLETION),
            temperature=rng.choice((0.0, 0.7, 1.2)),
            top_k=rng.choice((0, 20)),
            top_p=rng.choice((1.0, 0.9)),
            seed=rng.randrange(1 << 40),
        )
        requests.append((prompt, params))
    return requests


def _engine(folder: str, device: str, blocks: int, batch: int, *, prefix_cache: bool) -> Engine:
    # A request alone and in a batch differ only by rounding: in float64 too little to change a token.
    on_cpu = device == "cpu"
    # Keys and values, layers, heads, head_dim, bytes, tokens. On a GPU, one of the blocks is for padding rows.
    block_bytes = 2 * 2 * 2 * 16 * (8 if on_cpu else 4) * _BLOCK
    return build_engine(
        EngineConfig(
            model=folder,
            load_format="dummy",
            dtype="float64" if on_cpu else "float32",
            device=device,
            max_batch_size=batch,
            block_size=_BLOCK,
            kv_cache_memory=f"{blocks * block_bytes}",
            prefix_cache=prefix_cache,
        )
    )


def soak(count: int, seed: int, device: str, alone: int) -> dict[str, Any]:
    rng = random.Random(seed)
    requests = _requests(count, rng)
    mean_tokens = sum(len(prompt) + params.max_new_tokens for prompt, params in requests) / count
    wanted = int(_BATCH * mean_tokens / _BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_SHAPE))
        engine = _engine(folder, device, wanted // 10, _BATCH, prefix_cache=True)
        roomy = _engine(folder, device, wanted, 1, prefix_cache=False)
    scheduler = engine.scheduler("online")
    ids = [scheduler.submit(prompt, params) for prompt, params in requests]
    aborted = set(rng.sample(ids, count // 20))
    doomed = sorted(aborted)
    steps, finished, memory_mib, begun_s = 0, 0, [_memory_mib()], time.perf_counter()
    while scheduler.has_unfinished:
        finished += sum(event.finish_reason is not None for event in scheduler.step())
        steps += 1
        if len(memory_mib) < 5 and finished >= len(memory_mib) * (count - len(aborted)) // 5:
            memory_mib.append(_memory_mib())
        if doomed and steps % 7 == 0:
            scheduler.abort(doomed.pop(0))
    elapsed_s = time.perf_counter() - begun_s
    memory_mib.append(_memory_mib())
    outputs = scheduler.run()
    different = [
        output.request_id
        for output in outputs[:alone]
        if output.finish_reason != "abort"
        and output.token_ids != roomy.generate(*requests[output.request_id])[0].token_ids
    ]
    pool, statistics = engine.pool, engine.pool.statistics
    return {
        "requests": count,
        "finished": len(outputs),
        "aborted": sum(output.finish_reason == "abort" for output in outputs),
        "run_alone": min(alone, len(outputs)),
        "different_from_alone": len(different),
        "blocks": pool.num_blocks,
        "blocks_wanted": wanted,
        "blocks_leaked": pool.num_blocks - pool.num_free,
        "preemptions": scheduler.num_preemptions,
        "prefix_cache_hit_percent": round(statistics.hit_percent, 1),
        "blocks_evicted": statistics.evicted_blocks,
        "steps": steps,
        "completion_tokens": sum(len(output.token_ids) for output in outputs),
        "elapsed_s": round(elapsed_s, 1),
        "process_memory_mib": [process for process, _ in memory_mib],
        "device_memory_mib": [taken for _, taken in memory_mib],
    }


def _memory_mib() -> tuple[int, int]:
    """Return the peak resident memory of this process and torch's peak reserved GPU memory, in MiB."""
    device = torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_initialized() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, help="number of requests [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random load [default: %(default)s]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [default: %(default)s]")
    parser.add_argument("--alone", type=int, default=1 << 40, help="maximum requests to run again alone [default: all]")
    arguments = parser.parse_args()
    print(json.dumps(soak(arguments.requests, arguments.seed, arguments.device, arguments.alone), indent=2))


if __name__ == "__main__":
    main()
