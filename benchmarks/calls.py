"""Call one engine from several threads and from asyncio at once, cancel many calls, and check that nothing is lost.

    python -m benchmarks.calls [--calls 64] [--threads 8] [--cancellations 1000]

The model is tiny and random, in float32, with a KV cache for a part of the calls, so that they preempt each other. Each
call first runs alone. Then all of them run at once, one half from threads and the other from asyncio, and must give the
same texts. Then calls are cancelled at random moments, while others run: tasks of asyncio, and streams that their
consumers leave. At the end every block must be free. Prints one JSON document, and exits with 1 if something is lost.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.soak import save_model
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine

Call = tuple[list[str], SamplingParams]
Answer = list[tuple[int, int, str, str]]

_BLOCK = 16
_BLOCK_BYTES = 2 * 2 * 2 * 16 * 4 * _BLOCK
"""Bytes of a block of the model of `save_model`: keys and values, layers, heads, head_dim, float32, tokens."""
_BLOCKS = 60


def make_engine(folder: Path) -> Engine:
    """Build an engine of a tiny random model in float32, with a KV cache of 60 blocks."""
    save_model(folder)
    return build_engine(
        EngineConfig(
            model=str(folder),
            load_format="dummy",
            dtype="float32",
            device="cpu",
            block_size=_BLOCK,
            max_batch_size=16,
            kv_cache_memory=str(_BLOCKS * _BLOCK_BYTES),
        )
    )


def random_calls(count: int, chooser: random.Random) -> list[Call]:
    """Draw calls of one to three prompts, with several completions, seeds and stop strings."""
    words = ["some", "words", "of", "random", "prompts", "that", "share", "their", "first", "tokens"]
    calls = []
    for _ in range(count):
        prompts = [" ".join(chooser.choices(words, k=chooser.randint(1, 20))) for _ in range(chooser.randint(1, 3))]
        params = SamplingParams(
            max_new_tokens=chooser.randint(1, 40),
            temperature=chooser.choice((0.0, 0.8, 1.2)),
            stop=chooser.choice(((), ("e", "on"))),
            n=chooser.choice((1, 1, 2)),
            seed=chooser.randrange(1 << 40),
        )
        calls.append((prompts, params))
    return calls


def answer(engine: Engine, call: Call) -> Answer:
    """Run a call, and return its outputs as values that can be compared."""
    return _values(engine.generate(*call))


def _values(outputs: Any) -> Answer:
    return [(output.request_id, output.sample_index, output.text, output.finish_reason) for output in outputs]


def answers_at_once(engine: Engine, calls: list[Call], threads: int) -> list[Answer]:
    """Run every second call from threads, and the others from asyncio in a thread of their own, at the same time."""

    async def from_asyncio() -> list[Answer]:
        return [_values(outputs) for outputs in await asyncio.gather(*(engine.generate_async(*c) for c in calls[1::2]))]

    with ThreadPoolExecutor(threads + 1) as pool:
        others = pool.submit(lambda: asyncio.run(from_asyncio()))
        found: list[Answer] = [[]] * len(calls)
        found[::2] = pool.map(lambda call: answer(engine, call), calls[::2])
        found[1::2] = others.result()
    return found


def cancel_at_random(
    engine: Engine, calls: list[Call], alone: list[Answer], threads: int, count: int
) -> dict[str, int]:
    """Cancel `count` calls at random moments while others run. Return what happened, as numbers."""
    chooser = random.Random(count)
    happened = {"tasks_cancelled": 0, "streams_left": 0, "ended_before": 0, "kept": 0, "different_from_alone": 0}
    mutex = threading.Lock()

    def note(what: str, number: int = 1) -> None:
        with mutex:
            happened[what] += number

    async def cancel(call: Call, after_s: float) -> None:
        task = asyncio.create_task(engine.generate_async(*call))
        await asyncio.sleep(after_s)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        note("tasks_cancelled" if isinstance(done[0], asyncio.CancelledError) else "ended_before")

    async def cancel_all(jobs: list[tuple[Call, float]]) -> None:
        waiting = asyncio.Semaphore(threads)

        async def one(job: tuple[Call, float]) -> None:
            async with waiting:
                await cancel(*job)

        await asyncio.gather(*map(one, jobs))

    def leave(call: Call, after_tokens: int) -> None:
        stream = engine.stream(*call)
        for _ in range(after_tokens):
            if next(stream, None) is None:
                return note("ended_before")
        stream.close()
        return note("streams_left")

    def keep(index: int) -> None:
        note("different_from_alone", answer(engine, calls[index]) != alone[index])
        note("kept")

    tasks = [(chooser.choice(calls), chooser.uniform(0, 0.02)) for _ in range(count // 2)]
    with ThreadPoolExecutor(threads + 1) as pool:
        running = [pool.submit(lambda: asyncio.run(cancel_all(tasks)))]
        for number in range(count - len(tasks)):
            running.append(pool.submit(leave, chooser.choice(calls), chooser.randint(0, 12)))
            if number % 10 == 0:
                running.append(pool.submit(keep, chooser.randrange(len(calls))))
        for each in running:
            each.result()
    return happened


def run(calls: int, threads: int, cancellations: int, seed: int) -> dict[str, Any]:
    """Run everything; return figures, and what was lost."""
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(Path(folder))
        chosen = random_calls(calls, random.Random(seed))
        alone = [answer(engine, call) for call in chosen]
        started_s = time.perf_counter()
        together = answers_at_once(engine, chosen, threads)
        happened = cancel_at_random(engine, chosen, alone, threads, cancellations)
        elapsed_s = time.perf_counter() - started_s
        gc.collect()
        answer(engine, chosen[0])  # handles what the last closed streams have left
        return {
            "calls": calls,
            "completions": sum(map(len, alone)),
            "threads": threads,
            "different_from_alone": sum(ours != expected for ours, expected in zip(together, alone, strict=True)),
            "cancelled": happened,
            "blocks": engine.pool.num_blocks,
            "blocks_leaked": engine.pool.num_blocks - engine.pool.num_free,
            "elapsed_s": round(elapsed_s, 1),
        }


def main() -> None:
    """Print the figures; exit with 1 if a call differed or a block was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=64, help="calls that run at once [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=8, help="threads that call [default: %(default)s]")
    parser.add_argument("--cancellations", type=int, default=1000, help="calls to cancel [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random calls [default: %(default)s]")
    options = parser.parse_args()
    found = run(options.calls, options.threads, options.cancellations, options.seed)
    print(json.dumps(found, indent=2))
    different = found["different_from_alone"] + found["cancelled"]["different_from_alone"]
    sys.exit(bool(different or found["blocks_leaked"]))


if __name__ == "__main__":
    main()
