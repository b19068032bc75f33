"""Measure the host's time per step and per token around a model that computes nothing.

If a GPU finishes a step in less time than this, the GPU waits for the host.

    python benchmarks/host.py [--rounds 5]

Steps are graph replays, as on a GPU, but the graphs are empty and the drawn tokens are random. Scheduling, input
preparation, results and detokenization are real. The host's calls to the GPU, copies and launches, are not in these
figures.
"""

import argparse
import random
import time
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
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import run_load

PROMPT_TOKENS = 128
NEW_TOKENS = 200


class EmptyGraphs(StepGraphs):
    """Graphs whose replay does nothing."""

    def _capture(self, key: GraphKey) -> Any:
        self._steps(key).pad(key)
        return SimpleNamespace(replay=lambda: None)


class EmptyModel(torch.nn.Module):
    """Model that returns zeros of the right shapes."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self._vocab_size = vocab_size

    def forward(self, token_ids: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(token_ids), 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.zeros(1, 1).expand(len(hidden), self._vocab_size)


def empty_engine(batch: int, decode_steps: int) -> Engine:
    """Return an engine with the demo model's tokenizer and settings, and a model that computes nothing."""
    config = EngineConfig(
        model="smollm2-135m",
        device="cpu",
        dtype="bfloat16",
        quantize="none",
        compile=False,
        max_batch_size=batch,
        max_model_len=2048,
        kv_cache_memory="8GiB",
        overlap=True,
        max_batch_tokens=8192,
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
    drawn = runner.graphs._decode._drawn
    drawn.copy_(torch.randint(engine.model_config.vocab_size, drawn.shape))
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
    scheduler = engine.scheduler("online")
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
    begun = time.perf_counter()
    result = run_load(engine, mode, load)
    return sum(len(output.token_ids) for output in result.outputs) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the host's time per step and per token.")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per row [default: %(default)s]")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| requests | tokens per request and launch | us per launch | us per token |\n|---|---|---|---|")
    for batch, decode_steps in ((1, 1), (1, 16), (64, 1), (64, 16), (256, 1), (256, 16)):
        engine = empty_engine(batch, decode_steps)
        decode_us(engine, batch, decode_steps)
        took = median(decode_us(engine, batch, decode_steps) for _ in range(rounds))
        print(f"| {batch} | {decode_steps} | {took:,.0f} | {took / batch / decode_steps:.2f} |", flush=True)
    engine = empty_engine(256, 16)
    print("\n| load of 256 requests | completion tokens/s |\n|---|---|")
    for mode in ("offline", "online"):
        print(f"| {mode} | {median(load_tokens_s(engine, mode, 256) for _ in range(rounds)):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
