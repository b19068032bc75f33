"""Measure the host's time per step and per token around a model that computes nothing.

If a GPU finishes a step in less time than this, the GPU waits for the host.

    python benchmarks/host.py [--rounds 5] [--only steps]

Steps are graph replays, as on a GPU, but the graphs are empty and the drawn tokens are random. Scheduling, input
preparation, results and detokenization are real. The host's calls to the GPU, copies and launches, are not in these
figures.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.engine.outputs import RequestOutput
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import run_load

PROMPT_TOKENS = 128
NEW_TOKENS = 200
LONG_REQUESTS, LONG_PROMPT_TOKENS, LONG_NEW_TOKENS = 16, 4096, 64


class EmptyGraphs(StepGraphs):
    """Graphs whose replay does nothing."""

    def _capture(self, key: GraphKey) -> Any:
        self._steps(key).pad(key)
        return SimpleNamespace(replay=lambda: None)


class EmptyModel(torch.nn.Module):
    """Model that returns zeros of the right shapes, and notes when it is called."""

    ranks = None

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.called_s: list[float] = []
        self._logits = torch.zeros(1, vocab_size)
        self._logits[0, -1] = 1.0  # drawn by greedy sampling: the first token would end completions

    def forward(
        self, token_ids: Tensor, _positions: Tensor, _attention: object, _metadata: object, rows: Tensor | None
    ) -> Tensor:
        self.called_s.append(time.perf_counter())
        return torch.zeros(len(token_ids if rows is None else rows), 1)

    def rank_logits(self, hidden: Tensor) -> Tensor:
        return self._logits.expand(len(hidden), -1)

    def gathered(self, logits: Tensor) -> Tensor:
        return logits


def empty_engine(batch: int, decode_steps: int, *, max_model_len: int = 2048, max_batch_tokens: int = 8192) -> Engine:
    """Return an engine with the demo model's tokenizer and settings, and a model that computes nothing."""
    config = EngineConfig(
        model="smollm2-135m",
        device="cpu",
        dtype="bfloat16",
        quantize="none",
        compile=False,
        max_batch_size=batch,
        max_model_len=max_model_len,
        kv_cache_memory="8GiB",
        overlap=True,
        max_batch_tokens=max_batch_tokens,
    )
    engine = replace(build_engine(config), max_decode_steps=decode_steps)
    runner = engine.runner
    runner.attention = TritonAttention()
    runner.graphs = EmptyGraphs(
        runner.model,
        runner.cache,
        runner.attention,
        max_batch_size=batch,
        max_blocks=-(-engine.max_model_len // config.block_size),
        max_steps=decode_steps,
        scrap_block=runner.cache.num_blocks - 1,
    )
    assert engine.weight_bytes.layers, "the weight sizes are those of the real model"
    runner.model = EmptyModel(engine.model_config.vocab_size)  # type: ignore[assignment]
    for drawn in (runner.graphs._decode._drawn, runner.graphs._mixed._drawn):
        drawn.random_(1, engine.model_config.vocab_size)  # token 0 would end completions
    return engine


def drawn_load(engine: Engine, lengths: list[tuple[int, int]], *, stop_on_eos: bool) -> list[PlannedRequest]:
    """Return requests with these (prompt, completion) token counts, all arriving at the start."""
    rng = random.Random(0)
    return [
        PlannedRequest(
            prompt=[rng.randrange(engine.model_config.vocab_size) for _ in range(prompt)],
            params=SamplingParams(max_new_tokens=new, stop_on_eos=stop_on_eos),
        )
        for prompt, new in lengths
    ]


def decode_us(engine: Engine, batch: int, decode_steps: int) -> float:
    """Return the median time in us of a decode step with a full batch and `decode_steps` tokens per request."""
    scheduler = engine.scheduler("offline")  # the online mode would spread the prompts of so fast a model thinly
    for planned in drawn_load(engine, [(PROMPT_TOKENS, NEW_TOKENS)] * batch, stop_on_eos=decode_steps == 1):
        scheduler.submit(planned.prompt, planned.params)
    found = []
    while scheduler.has_unfinished:
        begun = time.perf_counter()
        scheduler.step()
        took = time.perf_counter() - begun
        plan = scheduler.last_plan
        is_full = plan is not None and (len(plan.chunks), plan.decode_steps) == (batch, decode_steps)
        if plan is not None and is_full and plan.phase == "decode":
            found.append(took * 1e6)
    return median(found)


def load_tokens_s(engine: Engine, mode: Mode, requests: int) -> float:
    """Return completion tokens per second of a load with prompts and completions of 100 to 1024 tokens."""
    rng = random.Random(1)
    lengths = [(rng.randint(100, 1024), rng.randint(100, 1024)) for _ in range(requests)]
    load = drawn_load(engine, lengths, stop_on_eos=False)
    run_load(engine, mode, load)
    engine.runner.capture_missing()
    begun = time.perf_counter()
    result = run_load(engine, mode, load)
    return sum(len(output.token_ids) for output in result.outputs) / (time.perf_counter() - begun)


def idle_ms(engine: Engine, runs: Callable[[list[PlannedRequest]], Sequence[RequestOutput]]) -> tuple[float, float]:
    """Return the time in ms that a GPU would wait for the host at both ends of a load of long prompts.

    That is the time from the start until the model is first called, and from the last tokens to the results.
    """
    load = drawn_load(engine, [(LONG_PROMPT_TOKENS, LONG_NEW_TOKENS)] * LONG_REQUESTS, stop_on_eos=False)
    called_s = engine.runner.model.called_s
    assert isinstance(called_s, list)
    called_s.clear()
    begun = time.perf_counter()
    outputs = runs(load)
    ended = time.perf_counter()
    read_s = max(output.token_times_s[-1] for output in outputs)
    return (called_s[0] - begun) * 1e3, (ended - read_s) * 1e3


def print_idle_ms(rounds: int) -> None:
    engine = empty_engine(LONG_REQUESTS, 16, max_model_len=8192, max_batch_tokens=16_896)

    def load(planned: list[PlannedRequest]) -> Sequence[RequestOutput]:
        return run_load(engine, "offline", planned).outputs

    def generate(planned: list[PlannedRequest]) -> Sequence[RequestOutput]:
        return engine.generate([each.prompt for each in planned], [each.params for each in planned])

    prompts = f"{LONG_REQUESTS} prompts of {LONG_PROMPT_TOKENS:,} tokens"
    print(f"\n| {prompts} | ms to the first kernel | ms from the last tokens to the results |")
    print("|---|---|---|")
    for name, runs in (("load", load), ("generate", generate)):
        found = []
        for _ in range(rounds + 1):
            if name == "generate":  # a load empties the prefix cache itself, within its time
                engine.pool.reset_prefix_cache()
            gc.collect()
            found.append(idle_ms(engine, runs))
            engine.runner.capture_missing()
        before, after = zip(*found[1:], strict=True)
        # Other programs only add time, and a few ms are easily disturbed: the least counts.
        print(f"| {name} | {min(before):.2f} | {min(after):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the host's time per step and per token.")
    parser.add_argument("--only", choices=("steps", "long-prompts"), help="measure only this [default: all]")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per row [default: %(default)s]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only != "long-prompts":
        print_steps(options.rounds)
    if options.only != "steps":
        print_idle_ms(options.rounds)


def print_steps(rounds: int) -> None:
    print("| requests | tokens per request and launch | us per launch | us per token |\n|---|---|---|---|")
    for batch, decode_steps in ((1, 1), (1, 16), (64, 1), (64, 16), (256, 1), (256, 16)):
        engine = empty_engine(batch, decode_steps)
        decode_us(engine, batch, decode_steps)
        engine.runner.capture_missing()
        took = median(decode_us(engine, batch, decode_steps) for _ in range(rounds))
        print(f"| {batch} | {decode_steps} | {took:,.0f} | {took / batch / decode_steps:.2f} |", flush=True)
    engine = empty_engine(256, 16)
    print("\n| load of 256 requests | completion tokens/s |\n|---|---|")
    for mode in ("offline", "online"):
        print(f"| {mode} | {median(load_tokens_s(engine, mode, 256) for _ in range(rounds)):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
