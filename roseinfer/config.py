"""Typed configuration of a run: the tables `[engine]`, `[sampling]`, `[workload]` and `[profile]`.

`roseinfer.config_file` reads them from a TOML file and from command-line options, and checks types and ranges.
"""

from typing import Annotated, Literal

import msgspec

_INT64_MAX = 2**63 - 1  # what tensors and random generators take
PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=_INT64_MAX)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]
QuantizeName = Literal["auto", "none", "int8", "int4"]
AttentionName = Literal["paged", "gather"]
Mode = Literal["naive", "offline", "online"]
SortKey = Literal["self", "total", "calls"]
ProfilePhase = Literal["any", "prefill", "decode", "steady"]

DEMO_MODEL = "smollm2-135m"


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `build_engine` builds: the model, where it runs, and the limits of a batch."""

    model: str = DEMO_MODEL
    """A Hugging Face directory, a .gguf file, `smollm2-135m` (the demo), or a built-in shape with load_format dummy."""
    tokenizer: str | None = None
    """In place of the model's own: gpt2, a tokenizer.json, or a tiktoken rank file."""
    load_format: LoadFormat = "auto"
    dtype: DTypeName = "auto"
    """Of weights, activations and KV cache. auto: bfloat16 where the device computes in it, else float32."""
    quantize: QuantizeName = "auto"
    """Weights of matrix products, on a CPU, in few bits. int8: a scale a row; int4: a scale and an offset for 32
    elements, the head in int8; none: in dtype, a GGUF file's dequantized. auto: those that a GGUF file holds quantized
    stay so where dtype is auto too, in int4 as they are and in int8 from other types; else none."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU when there is one."""
    attention: AttentionName = "paged"
    """gather copies every block of every request in every step: slow on purpose, the reference for the others."""
    max_batch_size: PositiveInt = 8
    """Most requests that one step computes."""
    max_batch_tokens: PositiveInt = 2048
    """Most tokens that one step computes, over all its requests."""
    max_model_len: PositiveInt | None = None
    """Most tokens, prompt and completion together, that a request may have; the model's context length when unset."""
    compile: bool | None = None
    """On a CPU, compute with kernels that the machine's C++ compiler makes. true makes them where that was not done
    before, which takes seconds. When unset, they are used if they were made (`make setup` does it) and the processor
    has AVX-512, where they are known to be faster. From then on, all engines of the process use them."""
    cuda_graphs: bool = True
    """On a GPU, replay steps as CUDA graphs, except those of many prompt tokens."""
    max_decode_steps: PositiveInt = 16
    """With CUDA graphs: most tokens a request that one launch decodes, where nothing can end inside it."""
    overlap: bool | None = None
    """Launch a step before the host has read the tokens of the one before; when unset, on a GPU only."""
    block_size: PositiveInt = 16
    """Tokens per KV block."""
    kv_cache_memory: str | None = None
    """Bytes ("2GiB", "500MB") or a share of the memory that is left once the weights are loaded ("50%")."""
    prefix_cache: bool = True
    """Keep full blocks by content, for requests that begin alike."""
    seed: NonNegativeInt = 0
    """Seeds dummy weights, and the sampling of requests that bring no seed of their own."""


class SamplingParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one request's completions are drawn. Order: penalties and bias, temperature, top-k, top-p, min-p."""

    max_new_tokens: NonNegativeInt = 64
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """0 is greedy."""
    top_k: NonNegativeInt = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Keep the likeliest tokens up to and including the one that crosses this probability."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens in the prompt or the completion."""
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    """Subtracted from the logits of tokens in the completion."""
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    """Subtracted from a token's logit for each time it occurs in the completion."""
    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids."""
    min_new_tokens: NonNegativeInt = 0
    """No stop token and no stop string ends a completion before it has this many tokens."""
    stop_token_ids: tuple[NonNegativeInt, ...] = ()
    """End at these tokens too; the token is part of the completion's ids."""
    stop: tuple[str, ...] = ()
    """End where one of these strings appears in the text; the string itself is cut off."""
    n: PositiveInt = 1
    """Completions per prompt."""
    logprobs: NonNegativeInt | None = None
    """Report the log-probability of each token, and of this many of the likeliest, under the model's own logits."""
    seed: NonNegativeInt | None = None
    """Unset: derived from the engine's seed and the order of submission."""
    stop_on_eos: bool = True

    @property
    def has_penalty(self) -> bool:
        """Whether a draw depends on which tokens came before."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)


class WorkloadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests a run sends, and through which scheduler."""

    mode: Mode = "online"
    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    """A text file, one prompt a line; `-` is standard input."""
    num_requests: PositiveInt | None = None
    """Prompts repeat in turn up to this number; unset: one request a prompt."""
    raw: bool = False
    """Send prompts as they are, even to a model with a chat template."""
    prompt_length: PositiveInt | str | None = None
    """Draw prompts of random ids with so many tokens: 128, "100..1024" (uniform), "lognormal:MEDIAN:SIGMA[:MAX]"."""
    completion_length: PositiveInt | str | None = None
    """Draw each request's max_new_tokens in the same way."""
    shared_prefix_length: NonNegativeInt = 0
    """Tokens that drawn prompts begin with in common, on top of prompt_length."""
    num_prefixes: PositiveInt = 1
    """Different shared prefixes, taken in turn."""
    turns: PositiveInt = 1
    """Turns of each conversation: a later one's prompt is the whole conversation so far and a new drawn prompt."""
    request_rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Requests per second that arrive on average, whatever the engine is busy with; unset: all at once."""
    burst_size: PositiveInt = 1
    """Requests that arrive together; 1: plain Poisson arrivals."""
    seed: NonNegativeInt = 0
    """Of drawn prompts, lengths and arrivals."""


class ProfileConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The profiler's schedule, counted in steps, what it records, and where its run directories go."""

    skip_first: NonNegativeInt = 0
    """Steps before the first cycle."""
    wait: NonNegativeInt = 1
    """Steps of each cycle with the profiler off."""
    warmup: NonNegativeInt = 1
    """Steps with the profiler on whose events are thrown away."""
    active: PositiveInt = 3
    """Steps to record."""
    repeat: PositiveInt = 1
    """Cycles, one trace file each."""
    phase: ProfilePhase = "any"
    """Begin to record with a step of this phase. steady: decode at the largest batch that the workload reaches."""
    loop: bool = True
    """Send the workload again, with fresh requests, until the schedule is done."""
    record_shapes: bool = False
    with_stack: bool = False
    profile_memory: bool = False
    with_modules: bool = False
    max_trace_size: str = "1GiB"
    """Warn before a recording whose traces are likely to pass this size, uncompressed."""
    profile_dir: str = "profiles"
    top: PositiveInt = 15
    """Rows of the top-ops table."""
    sort_by: SortKey = "self"


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run: model, engine, workload and profile."""

    engine: EngineConfig = EngineConfig()
    sampling: SamplingParams = SamplingParams()
    workload: WorkloadConfig = WorkloadConfig()
    profile: ProfileConfig = ProfileConfig()
