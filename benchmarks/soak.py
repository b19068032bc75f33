"""Run many requests through a KV cache that is far too small, and check that nothing is lost, leaked or changed.

    python -m benchmarks.soak [--requests 2000] [--device cuda --requests 10000 --alone 300]

The model is tiny and random, so most of the time is spent in the scheduler. Some prompts share a prefix. Lengths,
sampling parameters, stop strings, numbers of completions and seeds are random; some requests are aborted. The others
run again, one at a time, in an engine with enough blocks. On a CPU, in float64, their tokens must be the same. On a
GPU, in float32 with CUDA graphs and overlap, a token may differ if its draw is within the rounding error.
"""

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.outputs import RequestOutput

_BATCH, _BLOCK = 64, 16
_LONGEST_PROMPT, _LONGEST_COMPLETION = 240, 100
_ABORTED_PERCENT = 20
"""Share of the requests that are picked to be aborted, in percent; some of them finish before."""
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
            stop=rng.choice(((), (), ("a", "e", "t"), ("on", "i", "s"))),
            n=rng.choice((1, 1, 1, 2, 3)),
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
    completions = sum(params.n for _, params in requests)
    mean_tokens = sum((len(prompt) + params.max_new_tokens) * params.n for prompt, params in requests) / completions
    wanted = int(_BATCH * mean_tokens / _BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        engine = _engine(folder, device, wanted // 10, _BATCH, prefix_cache=True)
        roomy = _engine(folder, device, wanted, 1, prefix_cache=False)
    scheduler = engine.scheduler("online")
    to_submit = iter(requests)
    doomed = sorted(rng.sample(range(count), count * _ABORTED_PERCENT // 100), reverse=True)
    running: set[int] = set()
    outputs: dict[tuple[int, int], tuple[str, list[int], str]] = {}
    steps, tokens, ended, resident_mib, begun_s = 0, 0, 0, [_resident_mib()], time.perf_counter()
    while True:
        while len(running) < 4 * _BATCH and (request := next(to_submit, None)) is not None:
            running.add(scheduler.submit(*request))
        tokens += len(scheduler.step())
        steps += 1
        # A request is aborted while it runs, or waits, among those that were submitted last.
        if doomed and doomed[-1] in running and steps % 3 == 0:
            scheduler.abort(doomed.pop())
        for output in scheduler.take_outputs():
            # Bytes of a fixed size per completion, so that kept outputs are no growth of the process.
            outputs[output.request_id, output.sample_index] = _digest(output)
            running.discard(output.request_id)
            ended += 1
        while doomed and doomed[-1] not in running and doomed[-1] < max(running, default=count):
            doomed.pop()  # finished before its turn
        scheduler.take_steps()
        if ended >= len(resident_mib) * completions // 5:
            resident_mib.append(_resident_mib())
        if not scheduler.has_unfinished and not running:
            break
    elapsed_s = time.perf_counter() - begun_s
    preemptions = scheduler.num_preemptions
    different, compared = 0, 0
    for request_id, request in enumerate(requests[:alone]):
        mine = [outputs[request_id, index] for index in range(request[1].n)]
        if any(reason == "abort" for reason, _, _ in mine):
            continue
        compared += 1
        different += mine != [_digest(output) for output in roomy.generate(*request)]
    pool, statistics = engine.pool, engine.pool.statistics
    return {
        "requests": count,
        "completions": completions,
        "finished": len(outputs),
        "aborted": sum(reason == "abort" for reason, _, _ in outputs.values()),
        "ended_by_stop": sum(reason == "stop" for reason, _, _ in outputs.values()),
        "requests_run_alone": compared,
        "different_from_alone": different,
        "blocks": pool.num_blocks,
        "blocks_wanted": wanted,
        "blocks_leaked": pool.num_blocks - pool.num_free,
        "preemptions": preemptions,
        "prefix_cache_hit_percent": round(statistics.hit_percent, 1),
        "blocks_evicted": statistics.evicted_blocks,
        "steps": steps,
        "completion_tokens": tokens,
        "elapsed_s": round(elapsed_s, 1),
        "resident_mib_per_fifth": resident_mib,
        "device_memory_mib": torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_initialized() else 0,
    }


def _digest(output: RequestOutput) -> tuple[str, list[int], str]:
    digest = hashlib.blake2b(repr((output.token_ids, output.text)).encode(), digest_size=8).hexdigest()
    return output.finish_reason, [len(output.token_ids)], digest


def _resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def save_model(folder: Path) -> None:
    """Save a tiny model's shape, and a tokenizer with one token per byte; the model's other tokens have no text."""
    (folder / "config.json").write_text(json.dumps(_SHAPE))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


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
