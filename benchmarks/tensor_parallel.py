"""Measure tensor parallelism on the GPUs of one host, each number of ranks in a process of its own.

    python -m benchmarks.tensor_parallel --model llama-3-8b --ranks 1 2 --parts decode prompts offline

`decode` is the median time per decode step at each of --batches. `prompts` is the rate of 4 prompts of 7,936 tokens.
`offline` is the load of configs/small-engines.toml. `start` is the time of a command that draws one token, from its
start to its end, the faster of two. `ids` compares the tokens that one rank and several draw in float32. `soak` runs
many short requests in a small KV cache, and compares the ranks' checksums. With --collectives nccl, ranks use NCCL
only. Each figure is one line of JSON, printed as soon as it is measured. `ready` has the parts of building the engine.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.random_prompts import random_prompts
from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.config_file import load_config
from roseinfer.distributed import rank_group
from roseinfer.distributed.rank_group import COLLECTIVES_VARIABLE
from roseinfer.distributed.rank_team import RankTeam
from roseinfer.engine import factory
from roseinfer.engine.engine import Engine
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.workload.load_plan import plan_load
from roseinfer.workload.load_runner import run_load
from roseinfer.workload.pass_report import Report

_PROMPT_TOKENS = 7936
_ROUND = 2000


def main() -> None:
    """Start a process per number of ranks, or measure in this one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-3-8b", help="built-in shape [default: %(default)s]")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", nargs="+", default=["decode", "prompts", "offline"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--collectives", nargs="+", default=["auto"], help="auto, nccl, or both")
    parser.add_argument("--requests", type=int, default=10_000, help="requests of `soak` [default: %(default)s]")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _measure(options)
        return
    for ranks in options.ranks:
        for collectives in options.collectives if ranks > 1 else ["auto"]:
            changes = ["--measure", "--ranks", str(ranks), "--collectives", collectives]
            environment = {**os.environ, COLLECTIVES_VARIABLE: collectives}
            subprocess.run(
                [sys.executable, "-m", "benchmarks.tensor_parallel", *sys.argv[1:], *changes], env=environment
            )


def _measure(options: argparse.Namespace) -> None:
    base = {"model": options.model, "ranks": options.ranks[0], "collectives": options.collectives[0]}

    def say(part: str, **figures: Any) -> None:
        print(json.dumps(base | {"part": part} | figures), flush=True)

    if "ids" in options.parts:
        _compare_ids(options, say)
    if "soak" in options.parts:
        _soak(options, say)
    if "start" in options.parts:
        say("start", seconds=min(_started_s(options) for _ in range(2)))
    if not {"decode", "prompts", "offline"} & set(options.parts):
        return
    offline = load_config("small-engines", {})
    part_s = _timed_parts()
    started_s = time.perf_counter()
    engine = build_engine(
        EngineConfig(
            model=options.model,
            load_format="dummy",
            device=options.device,
            tensor_parallel=options.ranks[0],
            max_batch_size=max(256, *options.batches),
            max_batch_tokens=16384,
            max_model_len=8192,
            prefix_cache=False,
        )
    )
    say("ready", seconds=round(time.perf_counter() - started_s, 2), parts=part_s, kv_blocks=engine.pool.num_blocks)
    if "decode" in options.parts:
        for batch in options.batches:
            say("decode", batch=batch, **_decode(engine, batch))
    if "prompts" in options.parts:
        say("prompts", **_prompts(engine))
    if "offline" in options.parts:
        load = plan_load(offline.workload, offline.sampling, engine)
        for _ in range(2):
            report = Report.of(run_load(engine, "offline", load))
            engine.runner.capture_missing()
        say("offline", completion_tokens_per_s=round(report.completion_tokens_per_s, 1))
    if options.device != "cpu":
        say("memory", peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2))


def _started_s(options: argparse.Namespace) -> float:
    """Seconds of a command that starts, draws one token and ends."""
    command = [sys.executable, "-m", "roseinfer", "generate", "ids:1,2,3", "--model", options.model, "--quiet"]
    command += ["--load-format", "dummy", "--device", options.device, "--tensor-parallel", str(options.ranks[0])]
    command += ["--max-new-tokens", "1", "--max-model-len", "1024"]
    started_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - started_s, 2)


def _timed_parts() -> dict[str, float]:
    """Return what becomes the seconds of the parts of building an engine. Parts may contain others."""
    part_s: dict[str, float] = {}

    def time_calls(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                part_s[name.strip("_")] = round(time.perf_counter() - started_s, 2)

        setattr(owner, name, timed)

    for name in ("load_text", "_build", "fill_dummy_weights", "_kv_cache", "_step_graphs"):
        time_calls(factory, name)
    for name in ("started", "group", "wait_until_ready"):
        time_calls(RankTeam, name)
    time_calls(rank_group, "_gloo")
    time_calls(rank_group, "_nccl")
    time_calls(rank_group, "new_peer_memory")
    time_calls(rank_group.RankGroup, "prepare_joins")
    return part_s


def _decode(engine: Engine, batch: int) -> dict[str, float]:
    """Median ms per decode step of `batch` requests, and its spread from the 10th to the 90th percentile."""
    params = SamplingParams(max_new_tokens=257, stop_on_eos=False)
    prompts = random_prompts(engine, batch, 128)
    times: list[float] = []
    for measured in (False, True):
        scheduler = engine.scheduler("offline")
        for prompt in prompts:
            scheduler.submit(prompt, params)
        scheduler.run()
        engine.runner.capture_missing()
        if measured:
            for plan, seconds in scheduler.take_steps():
                if plan.phase == "decode" and len(plan.chunks) == batch:
                    times.append(seconds * 1e3 / plan.decode_steps)
    tenths = statistics.quantiles(times, n=10)
    return {"ms": round(statistics.median(times), 3), "p10": round(tenths[0], 3), "p90": round(tenths[-1], 3)}


def _prompts(engine: Engine) -> dict[str, float]:
    params = SamplingParams(max_new_tokens=1, stop_on_eos=False)
    best = 0.0
    for _ in range(3):
        prompts = random_prompts(engine, 4, _PROMPT_TOKENS)
        started_s = time.perf_counter()
        engine.generate(prompts, params)
        best = max(best, 4 * _PROMPT_TOKENS / (time.perf_counter() - started_s))
    return {"tokens_per_s": round(best, 0)}


def _compare_ids(options: argparse.Namespace, say: Any) -> None:
    found = []
    for ranks in (1, options.ranks[0]):
        engine = build_engine(
            EngineConfig(
                model=options.model,
                load_format="dummy",
                dtype="float32",
                device=options.device,
                tensor_parallel=ranks,
                max_model_len=512,
                kv_cache_memory="1GiB",
            )
        )
        sampled = SamplingParams(max_new_tokens=48, stop_on_eos=False, temperature=0.8, top_k=50, seed=1)
        params = [SamplingParams(max_new_tokens=48, stop_on_eos=False), sampled] * 4
        prompts = [prompt for length in (7, 60, 130, 300) for prompt in random_prompts(engine, 2, length)]
        found.append([output.token_ids for output in engine.generate(prompts, params)])
        engine.close()
    same = sum(one == other for one, other in zip(*found, strict=True))
    say("ids", equal=same, of=len(found[0]))


def _soak(options: argparse.Namespace, say: Any) -> None:
    """Run many requests in a KV cache that preempts. All must finish, and all ranks draw the same tokens.

    Reports after every `_ROUND` requests, with the memory of rank 0.
    """
    engine = build_engine(
        EngineConfig(
            model="qwen3-0.6b",
            load_format="dummy",
            device=options.device,
            tensor_parallel=options.ranks[0],
            max_batch_size=64,
            max_model_len=256,
            kv_cache_memory="256MiB",
        )
    )
    finished = preemptions = done = 0
    started_s = time.perf_counter()
    while done < options.requests:
        prompts = random_prompts(engine, min(_ROUND, options.requests - done), 24)
        params = [
            SamplingParams(max_new_tokens=8 + at % 100, stop_on_eos=False, temperature=0.7 * (at % 2), seed=at)
            for at in range(len(prompts))
        ]
        scheduler = engine.scheduler("offline")
        for prompt, each in zip(prompts, params, strict=True):
            scheduler.submit(prompt, each)
        outputs = scheduler.run()
        done += len(prompts)
        finished += sum(len(out.token_ids) == each.max_new_tokens for out, each in zip(outputs, params, strict=True))
        preemptions += scheduler.num_preemptions
        figures: dict[str, Any] = {
            "finished": finished,
            "of": done,
            "preemptions": preemptions,
            "seconds": round(time.perf_counter() - started_s, 1),
            "host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }
        if options.device != "cpu":
            figures["gpu_mib"] = torch.cuda.memory_allocated() >> 20
        if isinstance(engine.runner, LeadingRunner):
            figures["ranks_equal"] = engine.runner.drew_the_same()
        say("soak", **figures)
    engine.close()


if __name__ == "__main__":
    main()
