"""The engines that `compare.py` runs on one job, each in its own process.

A contender loads the model, runs the job once to warm up and then `repeats` timed times. Decoding is greedy and ignores
EOS. A contender reports when each request's tokens arrived. Engines are imported inside their functions, so that a
process imports only its own engine.
"""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The work that every contender does."""

    model_dir: str
    gguf: str | None
    dtype: str
    device: str
    threads: int
    max_batch_size: int
    max_model_len: int
    engine: dict[str, Any]
    """roseinfer's [engine] settings."""
    mode: str
    prompts: list[list[int]]
    max_new_tokens: list[int]
    repeats: int


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one timed pass; None for those that the engine does not report."""

    elapsed_s: float
    ttft_s: list[float] | None
    """Time to first token of each request, from the start of the pass."""
    tpot_s: list[float] | None
    """Time per output token of each request."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one contender's process."""

    version: str
    settings: str
    startup_s: float
    """Time from the start of the process to a loaded model, imports included."""
    passes: list[Pass]
    completions: list[list[int]]
    """Token ids of the last pass."""


Load = Callable[[Job], tuple[str, Callable[[], tuple[Pass, list[list[int]]]]]]
"""Function that loads the model and returns (settings to record, a function that runs one pass)."""


def roseinfer(job: Job) -> tuple[str, Callable[[], tuple[Pass, list[list[int]]]]]:
    """roseinfer, built by its public factory."""
    from roseinfer.bench.protocol import timed_pass
    from roseinfer.bench.request_figures import request_figures
    from roseinfer.config import EngineConfig, SamplingParams
    from roseinfer.engine.factory import build_engine
    from roseinfer.workload.load_plan import PlannedRequest

    engine = build_engine(msgspec.convert(job.engine, EngineConfig))
    load = [
        PlannedRequest(prompt=prompt, params=SamplingParams(max_new_tokens=tokens, stop_on_eos=False))
        for prompt, tokens in zip(job.prompts, job.max_new_tokens, strict=True)
    ]

    def run() -> tuple[Pass, list[list[int]]]:
        result = timed_pass(engine, job.mode, load)  # type: ignore[arg-type]
        figures = request_figures(result, 0)
        return Pass(
            elapsed_s=result.add_s + result.run_s,
            ttft_s=[each.ttft_s for each in figures if each.ttft_s is not None],
            tpot_s=[each.tpot_s for each in figures if each.tpot_s is not None],
        ), [output.token_ids for output in result.outputs]

    compiled = ", compiled kernels" if engine.config.compile else ""
    weights = f"{(engine.weight_bytes.layers + engine.weight_bytes.head) / 1e6:.0f} MB of weights a step"
    return f"mode {job.mode}, {engine.dtype_name}, {weights}{compiled}", run


def transformers(job: Job) -> tuple[str, Callable[[], tuple[Pass, list[list[int]]]]]:
    """transformers' `generate` with the default dynamic cache, in static batches padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model_dir, dtype=getattr(torch, job.dtype)).to(job.device).eval()

    class Clock(BaseStreamer):
        """Arrival time of each step's tokens; the first call delivers the prompt."""

        def __init__(self) -> None:
            self.times_s: list[float] = []

        def put(self, value: Any) -> None:
            self.times_s.append(time.perf_counter())

        def end(self) -> None:
            pass

    def batches() -> Iterator[range]:
        for start in range(0, len(job.prompts), job.max_batch_size):
            yield range(start, min(start + job.max_batch_size, len(job.prompts)))

    def run() -> tuple[Pass, list[list[int]]]:
        completions: list[list[int]] = []
        ttft_s, tpot_s = [], []
        started_s = time.perf_counter()
        for batch in batches():
            longest = max(len(job.prompts[index]) for index in batch)
            ids = torch.tensor([[0] * (longest - len(job.prompts[i])) + job.prompts[i] for i in batch])
            mask = torch.tensor([[0] * (longest - len(job.prompts[i])) + [1] * len(job.prompts[i]) for i in batch])
            tokens, clock = max(job.max_new_tokens[index] for index in batch), Clock()
            with torch.inference_mode():
                out = model.generate(
                    ids.to(job.device),
                    attention_mask=mask.to(job.device),
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=0,
                    streamer=clock if len(batch) == 1 else None,
                )
            completions += [
                row[longest : longest + job.max_new_tokens[index]]
                for index, row in zip(batch, out.tolist(), strict=True)
            ]
            if len(batch) == 1:
                first, *_, last = clock.times_s[1:]
                ttft_s.append(first - started_s)
                tpot_s.append((last - first) / max(len(clock.times_s) - 2, 1))
        elapsed_s = time.perf_counter() - started_s
        return Pass(elapsed_s=elapsed_s, ttft_s=ttft_s or None, tpot_s=tpot_s or None), completions

    return f"generate, {model.config._attn_implementation}, {job.dtype}", run


def llama_cpp(job: Job) -> tuple[str, Callable[[], tuple[Pass, list[list[int]]]]]:
    """llama.cpp: one request after another, on the GGUF file's quantized weights."""
    from llama_cpp import Llama

    assert job.gguf is not None
    gpu_layers = 0 if job.device == "cpu" else -1
    model = Llama(
        job.gguf, n_ctx=job.max_model_len, n_threads=job.threads, n_threads_batch=job.threads, n_gpu_layers=gpu_layers,
        verbose=False,
    )  # fmt: skip

    def run() -> tuple[Pass, list[list[int]]]:
        completions, ttft_s, tpot_s = [], [], []
        started_s = time.perf_counter()
        for prompt, tokens in zip(job.prompts, job.max_new_tokens, strict=True):
            model.reset()
            completion, times_s = [], []
            for token in model.generate(prompt, temp=0.0, reset=True):
                times_s.append(time.perf_counter())
                completion.append(int(token))
                if len(completion) == tokens:
                    break
            completions.append(completion)
            ttft_s.append(times_s[0] - started_s)
            tpot_s.append((times_s[-1] - times_s[0]) / max(len(times_s) - 1, 1))
        return Pass(elapsed_s=time.perf_counter() - started_s, ttft_s=ttft_s, tpot_s=tpot_s), completions

    return "GGUF, quantized", run


def vllm(job: Job) -> tuple[str, Callable[[], tuple[Pass, list[list[int]]]]]:
    """vLLM's offline `LLM`, without prefix caching, so that each pass does the same work."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=job.model_dir,
        skip_tokenizer_init=True,
        dtype=job.dtype,
        max_num_seqs=job.max_batch_size,
        max_model_len=job.max_model_len,
        enable_prefix_caching=False,
    )
    params = [
        SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        for tokens in job.max_new_tokens
    ]
    prompts = [{"prompt_token_ids": prompt} for prompt in job.prompts]

    def run() -> tuple[Pass, list[list[int]]]:
        started_s = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        elapsed_s = time.perf_counter() - started_s
        return Pass(elapsed_s=elapsed_s, ttft_s=None, tpot_s=None), [list(out.outputs[0].token_ids) for out in outputs]

    return f"LLM.generate, {job.dtype}", run


CONTENDERS: dict[str, tuple[str, Load]] = {
    "roseinfer": ("roseinfer", roseinfer),
    "transformers": ("transformers", transformers),
    "llama-cpp-python": ("llama_cpp", llama_cpp),
    "vllm": ("vllm", vllm),
}
"""(importable module, loader) of each engine, by the name of its package."""


def installed(name: str) -> bool:
    """True if this Python can import the engine."""
    return find_spec(CONTENDERS[name][0]) is not None


def run_contender(name: str, job: Job, started_s: float) -> Outcome:
    """Load the engine, run the warm-up and the timed passes, and return the outcome."""
    settings, run = CONTENDERS[name][1](job)
    startup_s = time.perf_counter() - started_s
    run()
    passes = []
    for _ in range(job.repeats):
        timed, completions = run()
        passes.append(timed)
    return Outcome(
        version=version(name), settings=settings, startup_s=startup_s, passes=passes, completions=completions
    )
