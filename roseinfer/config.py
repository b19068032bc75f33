"""Typed configuration of a run: the tables `[engine]`, `[sampling]`, `[workload]` and `[profile]`.

`roseinfer.config_file` reads a run from a TOML file and from command-line options. Types and ranges are checked there
and when a table is made in Python. Each field is also a command-line option: `max_batch_size` is `--max-batch-size`.
"""

import sys
from typing import Annotated, Literal

import msgspec

from roseinfer.checked_table import CheckedTable

_INT64_MAX = 2**63 - 1
"""Largest integer that tensors and random generators accept."""

_FLOAT_MAX = sys.float_info.max
"""Largest finite number."""

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=_INT64_MAX)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
FiniteFloat = Annotated[float, msgspec.Meta(ge=-_FLOAT_MAX, le=_FLOAT_MAX)]

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]
QuantizeName = Literal["auto", "none", "int8", "int4"]
AttentionName = Literal["paged", "gather"]
Mode = Literal["naive", "offline", "online"]
SortKey = Literal["self", "total", "calls"]
ProfilePhase = Literal["any", "prefill", "decode", "steady"]

DEMO_MODEL = "smollm2-135m"


class EngineConfig(CheckedTable, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """Settings of `build_engine`: the model, its device and dtype, and the limits of a batch."""

    model: str = DEMO_MODEL
    """A path (Hugging Face directory, .gguf file, trainer's .pt checkpoint), a model of the Hugging Face Hub
    (`org/name[@revision][:file.gguf]`), `smollm2-135m` (the demo model), or the name of a built-in shape with
    `load_format` "dummy"."""
    tokenizer: str | None = None
    """Replacement for the model's own tokenizer: "gpt2", a tokenizer.json, or a tiktoken rank file."""
    load_format: LoadFormat = "auto"
    """File format of the weights. "dummy" draws random weights; "auto" recognizes the format from the model's files."""
    dtype: DTypeName = "auto"
    """Data type of weights, activations and KV cache. "auto" is bfloat16 if the device computes in bfloat16, else
    float32."""
    quantize: QuantizeName = "auto"
    """Weight-only quantization of matrix products, on a CPU.

    - "int8": one scale per row.
    - "int4": one scale and one offset per 32 elements; the language-model head is int8.
    - "none": weights in `dtype`; a GGUF file's quantized weights are dequantized.
    - "auto": if `dtype` is "auto" too, a GGUF file's quantized weights stay quantized. Its 4-bit groups are used
      unchanged, other types become int8. For every other model "auto" is "none".
    """
    device: str = "auto"
    """"cpu", "cuda", "cuda:N", or "auto": a GPU if one is available."""
    tensor_parallel: PositiveInt = 1
    """Number of ranks that divide the model: processes of this host, with a GPU each. With `device` "cpu", they are
    processes that share the CPU."""
    threads: PositiveInt | None = None
    """CPU threads that PyTorch and the compiled kernels compute with, in the whole process. None leaves PyTorch's
    number: OMP_NUM_THREADS, or else one per physical core."""
    attention: AttentionName = "paged"
    """Attention backend. "gather" copies every KV block of every request in every step: the slow reference against
    which the others are tested."""
    max_batch_size: PositiveInt | None = None
    """Maximum requests per step. None is 8 on a CPU; on a GPU, it follows the model and the memory left (8 to 512)."""
    max_batch_tokens: PositiveInt | None = None
    """Maximum tokens per step, summed over its requests. None is 2048 on a CPU; on a GPU, it follows the model and the
    memory left (512 to 16384, and one for each request)."""
    max_itl_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Bound of the time between two bursts of a request's tokens, in ms.

    It limits the prompts of steps that also decode, and the decode steps of a launch, by times that the engine measures
    on its own steps. A bound that cannot be met still leaves each step 32 prompt tokens. None bounds mode online alone,
    and prompts alone: a step with prompts may take as long as 8 decode steps of the requests that decode in it.
    """
    max_model_len: PositiveInt | None = None
    """Maximum tokens per request, prompt and completion together. None is the model's context length."""
    check_weights: bool = False
    """Refuse a model with weights that are NaN or infinite. Every weight is looked at once, while the model loads."""
    compile: bool | None = None
    """Use the kernels that the machine's C++ compiler builds, on a CPU.

    True compiles them if necessary, which takes up to half a minute. None uses them if they are compiled already
    (`make setup` compiles them) and the processor has AVX2, for which they are measured to be faster. Once one engine
    uses the kernels, every engine of the process does.
    """
    cuda_graphs: bool = True
    """Replay steps as CUDA graphs, on a GPU. Steps with many prompt tokens are launched kernel by kernel."""
    max_decode_steps: PositiveInt = 16
    """Maximum tokens per request that one CUDA graph launch decodes. No request may finish inside such a launch."""
    overlap: bool | None = None
    """Launch the next step before the host has read the current step's tokens. None is true on a GPU only."""
    block_size: PositiveInt = 16
    """Tokens per KV block."""
    kv_cache_memory: str | None = None
    """Size of the KV cache in bytes ("2GiB", "500MB"), or as a share of the memory that is free once the weights are
    loaded ("50%")."""
    prefix_cache: bool = True
    """Share full KV blocks between requests whose prompts have a common prefix."""
    seed: NonNegativeInt = 0
    """Seed of dummy weights, and of sampling for requests without a seed of their own."""


class SamplingParams(CheckedTable, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """Settings that decide how a request's completions are sampled, and when they end.

    Logits are changed in this order: penalties and bias, temperature, top-k, top-p, min-p.
    """

    max_new_tokens: NonNegativeInt = 64
    """Maximum tokens per completion."""
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Divisor of the logits. 0 selects the most likely token (greedy decoding)."""
    top_k: NonNegativeInt = 0
    """Sample from the k most likely tokens only. 0 is no limit."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Sample from the smallest set of most likely tokens whose total probability reaches this value."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Exclude tokens whose probability is below this fraction of the most likely token's."""
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Factor for tokens in the prompt or the completion: divides their positive logits, multiplies negative ones."""
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    """Amount subtracted from the logits of tokens that occur in the completion."""
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    """Amount subtracted from a token's logit per occurrence in the completion."""
    logit_bias: Annotated[dict[int, FiniteFloat], msgspec.Meta(max_length=1024)] = msgspec.field(default_factory=dict)
    """Amount added to the logit of each of these token ids."""
    min_new_tokens: NonNegativeInt = 0
    """Minimum tokens per completion. Before that, EOS, stop tokens and stop strings do not end a completion."""
    stop_token_ids: Annotated[tuple[NonNegativeInt, ...], msgspec.Meta(max_length=1024)] = ()
    """Tokens that end a completion, besides EOS. The stop token is part of the completion's ids."""
    stop: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=256)] = ()
    """Strings that end a completion when they appear in its text. The stop string is not part of the text."""
    n: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Completions per prompt."""
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=1024)] | None = None
    """Number of most likely alternatives to report per token, with log-probabilities of the unchanged logits.

    0 reports the drawn token's log-probability alone; None reports nothing.
    """
    seed: NonNegativeInt | None = None
    """Seed of this request's sampling. None derives one from the engine's seed and the order of submission."""
    stop_on_eos: bool = True
    """End a completion at the model's EOS tokens."""

    @property
    def has_penalty(self) -> bool:
        """True if any penalty is set, so that draws depend on the tokens before them."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)


class WorkloadConfig(CheckedTable, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """The requests that a run sends, and the scheduler that serves them."""

    mode: Mode = "online"
    """Scheduler. "naive" runs one request at a time. "offline" optimizes the time of the whole run, for requests that
    are all known before it. "online" accepts requests at any time and keeps the latency of running ones low."""
    prompts: tuple[str, ...] = ()
    """Prompts as text, or as token ids: "ids:1,2,3"."""
    prompts_file: str | None = None
    """A text file with one prompt per line; "-" is standard input. `bench` and `profile` also read .jsonl files with
    one request per line."""
    num_requests: PositiveInt | None = None
    """Requests to send, repeating the prompts in order. None sends one request per prompt."""
    raw: bool = False
    """Send prompts unchanged, without the model's chat template."""
    prompt_length: PositiveInt | str | None = None
    """Tokens per prompt of random ids: 128, "100..1024" (uniform), or "lognormal:MEDIAN:SIGMA[:MAX]"."""
    completion_length: PositiveInt | str | None = None
    """Tokens per completion, in the forms that `prompt_length` accepts. Replaces `max_new_tokens` for each request."""
    shared_prefix_length: NonNegativeInt = 0
    """Tokens of a shared prefix, prepended to the `prompt_length` tokens of each drawn prompt."""
    num_prefixes: PositiveInt = 1
    """Number of different shared prefixes. Requests use them in rotation."""
    turns: PositiveInt = 1
    """Turns per conversation. A later turn's prompt is the whole conversation so far, then a newly drawn prompt."""
    request_rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Mean request arrivals per second, independent of the engine's progress. None sends all requests at once."""
    burst_size: PositiveInt = 1
    """Requests that arrive together. 1 is a plain Poisson process."""
    seed: NonNegativeInt = 0
    """Seed of drawn prompts, lengths and arrivals."""


class ProfileConfig(CheckedTable, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """The profiler's schedule, counted in steps, the data it records, and the location of its run directories."""

    skip_first: NonNegativeInt = 0
    """Steps before the first cycle."""
    wait: NonNegativeInt = 1
    """Steps per cycle with the profiler off."""
    warmup: NonNegativeInt = 1
    """Steps per cycle with the profiler on and its events discarded."""
    active: PositiveInt = 3
    """Steps to record per cycle."""
    repeat: PositiveInt = 1
    """Number of cycles. Each writes one trace file."""
    phase: ProfilePhase = "any"
    """Phase of the first recorded step. "steady" is a decode step with the largest batch that the workload reaches."""
    loop: bool = True
    """Send the workload again, with fresh requests, until the schedule is finished."""
    record_shapes: bool = False
    """Record the input shapes of operators."""
    with_stack: bool = False
    """Record Python stacks."""
    profile_memory: bool = False
    """Record allocations."""
    with_modules: bool = False
    """Record the module hierarchy of operators."""
    max_trace_size: str = "1GiB"
    """Estimated uncompressed size of the traces, such as "1GiB", above which a warning is printed before the run."""
    profile_dir: str = "profiles"
    """Directory in which each run makes a directory of its own."""
    top: PositiveInt = 15
    """Rows of the top-operators table."""
    sort_by: SortKey = "self"
    """Order of the top-operators table: by self time, total time, or number of calls."""


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """Configuration of one run: the engine with its model, sampling, workload and profile."""

    engine: EngineConfig = EngineConfig()
    sampling: SamplingParams = SamplingParams()
    workload: WorkloadConfig = WorkloadConfig()
    profile: ProfileConfig = ProfileConfig()
