"""Command-line options that set config keys, each declared once for all commands."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import typer

from roseinfer import config
from roseinfer.cli.completion import Completion, complete_model, completes
from roseinfer.config_messages import option_name

_MODEL_KEYS = ("model", "tokenizer", "load_format", "dtype", "quantize", "device")
"""Keys of the engine that `--help` lists under Model."""


@dataclass(frozen=True)
class ConfigFlag:
    """A config key as a command-line option."""

    table: str
    key: str
    help: str
    metavar: str | None = None
    """Placeholder of the value in `--help`. None shows the choices of `kind`, or nothing for a flag."""
    kind: Any = str
    negative: str | None = None
    """Negative form of a flag, such as `--no-overlap`; None if there is none."""
    group: str | None = None
    """Group name by which a command adds the option, see `options.configured`. None is the name of the config table."""
    completion: Completion | None = None
    """Completes the value in a shell; None leaves it to Typer, which knows the words of a Literal."""
    unset: str | None = None
    """Text that `--help` shows as the default if the config leaves the key unset."""

    @property
    def option(self) -> str:
        """The option's name, without the negative form of a flag."""
        return option_name(self.table, self.key)

    @property
    def parameter_name(self) -> str:
        """Name of the option's function parameter, distinct from the parameters that a command declares itself."""
        return f"{self.table}_{self.key}"

    @property
    def parameter(self) -> inspect.Parameter:
        """The option as a function parameter for Typer, with value None if the option is not given."""
        option = typer.Option(
            self.option if self.negative is None else f"{self.option}/{self.negative}",
            help=self.help,
            metavar=self.metavar or "|".join(get_args(self.kind)) or None,
            rich_help_panel="Model" if self.table == "engine" and self.key in _MODEL_KEYS else self.table.title(),
            show_default=False,
            autocompletion=self.completion,
        )
        kind: Any = self.kind  # Any, because mypy rejects a variable in Annotated
        annotation: Any = Annotated[kind | None, option]
        return inspect.Parameter(
            self.parameter_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )


def _switch(table: str, key: str, text: str, *, off: str | None = None, unset: str | None = None) -> ConfigFlag:
    """Declare a flag with a negative form, `--no-KEY` unless `off` names another."""
    negative = f"--{off or 'no-' + key.replace('_', '-')}"
    return ConfigFlag(table, key, text, kind=bool, negative=negative, unset=unset)


_ENGINE = (
    ConfigFlag(
        "engine",
        "model",
        "Hub name (org/name), directory, .gguf or .pt file, or built-in shape (with --load-format dummy).",
        "MODEL",
        completion=complete_model,
    ),
    ConfigFlag(
        "engine",
        "tokenizer",
        "Tokenizer: gpt2, a tokenizer.json, or a tiktoken file.",
        "NAME|FILE",
        unset="the model's",
        completion=completes("gpt2"),
    ),
    ConfigFlag("engine", "load_format", "Format of the weights; dummy draws random ones.", kind=config.LoadFormat),
    ConfigFlag("engine", "dtype", "Number format of weights, activations and KV cache.", kind=config.DTypeName),
    ConfigFlag(
        "engine",
        "quantize",
        "Quantization of the weights on a CPU; auto leaves those of a GGUF file quantized.",
        kind=config.QuantizeName,
    ),
    ConfigFlag(
        "engine",
        "device",
        "Device: cpu, cuda, cuda:N, or auto for a GPU if there is one.",
        "DEVICE",
        completion=completes("auto", "cpu", "cuda"),
    ),
    ConfigFlag(
        "engine",
        "tensor_parallel",
        "Number of GPUs of this host that divide the model.",
        "N",
        int,
    ),
    ConfigFlag(
        "engine",
        "threads",
        "CPU threads to compute with.",
        "N",
        int,
        unset="$OMP_NUM_THREADS, or one per core",
    ),
    ConfigFlag("engine", "attention", "Attention backend; gather is the slow reference.", kind=config.AttentionName),
    ConfigFlag(
        "engine", "max_batch_size", "Maximum requests per step.", "N", int, unset="8 on a CPU, by memory on a GPU"
    ),
    ConfigFlag(
        "engine",
        "max_batch_tokens",
        "Maximum tokens per step (per decode step of a longer launch).",
        "N",
        int,
        unset="2048 on a CPU, by memory on a GPU",
    ),
    ConfigFlag(
        "engine",
        "max_itl_ms",
        "Bound of the time between a request's tokens, in ms: limits prompts beside decodes, and tokens per launch.",
        "MS",
        float,
        unset="8 decode steps, for prompts in mode online",
    ),
    ConfigFlag(
        "engine",
        "max_model_len",
        "Maximum tokens per request, prompt and completion together.",
        "N",
        int,
        unset="the model's context length",
    ),
    _switch("engine", "check_weights", "Refuse a model with weights that are NaN or infinite."),
    _switch(
        "engine",
        "compile",
        "On a CPU, run compiled kernels; the first use compiles them in up to 30 s.",
        unset="on if compiled before and the CPU has AVX2",
    ),
    _switch("engine", "cuda_graphs", "On a GPU, replay steps as CUDA graphs."),
    ConfigFlag(
        "engine", "max_decode_steps", "Maximum tokens per request that one CUDA graph launch decodes.", "N", int
    ),
    _switch("engine", "overlap", "Launch a step before the previous step's tokens are read.", unset="on for a GPU"),
    ConfigFlag("engine", "block_size", "Tokens per KV block.", "N", int),
    ConfigFlag(
        "engine",
        "kv_cache_memory",
        "Size of the KV cache: bytes such as 2GiB, or a share of the memory left after loading such as 50%.",
        "SIZE|PERCENT",
        unset="90% on a GPU, 50% on a CPU",
    ),
    _switch("engine", "prefix_cache", "Share KV blocks between requests with the same prefix."),
    ConfigFlag("engine", "seed", "Seed of dummy weights and of sampling.", "N", int),
)

_WORKLOAD = (
    ConfigFlag("workload", "prompts", "Prompt to complete (repeatable).", "TEXT", list[str]),
    ConfigFlag(
        "workload",
        "prompts_file",
        "File with one prompt per line, or - for stdin; bench and profile also take .jsonl requests.",
        "FILE",
    ),
    ConfigFlag(
        "workload",
        "num_requests",
        "Number of requests; the prompts repeat in turn.",
        "N",
        int,
        unset="one per prompt",
    ),
    _switch("workload", "raw", "Send prompts as they are, without the chat template.", off="chat"),
    ConfigFlag(
        "workload", "mode", "Scheduler: one request at a time, for throughput, or for latency.", kind=config.Mode
    ),
)

_LOAD = (
    ConfigFlag(
        "workload",
        "prompt_length",
        "Tokens per randomly drawn prompt: N, MIN..MAX, or lognormal:MEDIAN:SIGMA[:MAX].",
        "LENGTH",
        group="load",
    ),
    ConfigFlag(
        "workload",
        "completion_length",
        "Tokens per completion, drawn for each request as in --prompt-length.",
        "LENGTH",
        group="load",
        unset="--max-new-tokens",
    ),
    ConfigFlag(
        "workload",
        "shared_prefix_length",
        "Tokens of the prefix that drawn prompts share, on top of --prompt-length.",
        "N",
        int,
        group="load",
    ),
    ConfigFlag("workload", "num_prefixes", "Number of different shared prefixes.", "N", int, group="load"),
    ConfigFlag("workload", "turns", "Turns per conversation.", "N", int, group="load"),
    ConfigFlag(
        "workload",
        "request_rate",
        "Average arrivals, in requests per second.",
        "RATE",
        float,
        group="load",
        unset="all at once",
    ),
    ConfigFlag(
        "workload", "burst_size", "Requests that arrive together; 1 for Poisson arrivals.", "N", int, group="load"
    ),
    ConfigFlag(
        "workload",
        "seed",
        "Seed of drawn prompts, lengths and arrivals.",
        "N",
        int,
        group="load",
    ),
)

_SAMPLING = (
    ConfigFlag("sampling", "max_new_tokens", "Maximum tokens per completion.", "N", int),
    ConfigFlag("sampling", "temperature", "Sampling temperature; 0 is greedy.", "X", float),
    _switch("sampling", "do_sample", "Sample, at temperature 1 unless --temperature is given."),
    ConfigFlag("sampling", "top_k", "Sample from the N likeliest tokens; 0 for all.", "N", int),
    ConfigFlag("sampling", "top_p", "Sample from the likeliest tokens that reach probability P together.", "P", float),
    ConfigFlag(
        "sampling", "min_p", "Drop tokens less likely than this share of the likeliest token's probability.", "P", float
    ),
    ConfigFlag(
        "sampling",
        "repetition_penalty",
        "Factor against tokens of the prompt or completion; above 1 makes them less likely.",
        "X",
        float,
    ),
    ConfigFlag("sampling", "presence_penalty", "Penalty on the logits of tokens already generated.", "X", float),
    ConfigFlag(
        "sampling", "frequency_penalty", "Penalty on a token's logit for each time it was generated.", "X", float
    ),
    ConfigFlag(
        "sampling",
        "min_new_tokens",
        "Minimum tokens before EOS or a stop ends a completion.",
        "N",
        int,
    ),
    ConfigFlag("sampling", "stop", "Text that ends a completion and is cut off (repeatable).", "TEXT", list[str]),
    ConfigFlag(
        "sampling",
        "stop_token_ids",
        "Token id that ends a completion (repeatable).",
        "ID",
        list[int],
    ),
    ConfigFlag("sampling", "n", "Completions per prompt.", "N", int),
    ConfigFlag(
        "sampling",
        "logprobs",
        "Number of likeliest tokens per position whose log-probabilities generate --json reports.",
        "N",
        int,
    ),
    _switch("sampling", "stop_on_eos", "End a completion at the model's EOS token."),
)

_PROFILE = (
    ConfigFlag("profile", "skip_first", "Steps before the first cycle.", "N", int),
    ConfigFlag("profile", "wait", "Steps per cycle with the profiler off.", "N", int),
    ConfigFlag("profile", "warmup", "Steps per cycle with the profiler on, not recorded.", "N", int),
    ConfigFlag("profile", "active", "Steps per cycle to record.", "N", int),
    ConfigFlag("profile", "repeat", "Number of cycles, one trace file each.", "N", int),
    ConfigFlag(
        "profile",
        "phase",
        "Phase of the first recorded step; steady is decode at the largest batch.",
        kind=config.ProfilePhase,
    ),
    _switch("profile", "loop", "Repeat the workload until the schedule is done."),
    ConfigFlag("profile", "record_shapes", "Record the operators' shapes (slower).", kind=bool),
    ConfigFlag("profile", "with_stack", "Record Python stacks (much slower).", kind=bool),
    ConfigFlag("profile", "profile_memory", "Record allocations (slower).", kind=bool),
    ConfigFlag("profile", "with_modules", "Record the module hierarchy (slower).", kind=bool),
    ConfigFlag(
        "profile",
        "max_trace_size",
        "Estimated uncompressed size of a trace above which profile warns.",
        "SIZE",
    ),
    ConfigFlag("profile", "profile_dir", "Folder for run directories.", "DIR"),
    ConfigFlag("profile", "top", "Rows of the top-operators table, per device.", "N", int),
    ConfigFlag("profile", "sort_by", "Order of the top-operators table.", kind=config.SortKey),
)

CONFIG_FLAGS = (*_ENGINE, *_WORKLOAD, *_LOAD, *_SAMPLING, *_PROFILE)

_BY_KEY = {(flag.table, flag.key): flag for flag in CONFIG_FLAGS}


def flag_help(table: str, key: str) -> str:
    """Return the help text of a config key, for a command that declares the option itself."""
    return _BY_KEY[table, key].help
