"""Options that commands share, each declared once.

`configured(...)` gives a command the options of some config tables and hands it the finished `RunConfig`: the
command never sees a flag that is also a config key.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from roseinfer import config
from roseinfer.cli import console
from roseinfer.config import EngineConfig, RunConfig, SamplingParams
from roseinfer.config_file import load_config
from roseinfer.errors import UsageError


def _set_quiet(value: bool) -> bool:
    console.settings.quiet = value
    return value


def _set_debug(value: bool) -> bool:
    console.settings.debug = value
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Results and errors only.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
ConfigName = Annotated[
    str | None,
    typer.Option("--config", metavar="NAME|PATH", help="A shipped run or a TOML file; flags win over it."),
]


@dataclass(frozen=True)
class _Flag:
    """One config key as a command-line option."""

    table: str
    key: str
    help: str
    kind: Any = str
    names: tuple[str, ...] = ()
    metavar: str | None = None
    group: str | None = None
    """What a command asks for to get it, where that is not the table."""

    @property
    def name(self) -> str:
        """The parameter's name, which no parameter of a command's own has."""
        return f"{self.table}_{self.key}"

    @property
    def parameter(self) -> inspect.Parameter:
        names = self.names or (f"--{self.key.replace('_', '-')}",)
        option = typer.Option(
            *names, help=self.help, metavar=self.metavar, rich_help_panel=self.table.title(), show_default=False
        )
        kind: Any = self.kind  # chosen at run time, which is nothing that a type checker could follow
        annotation: Any = Annotated[kind | None, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_FLAGS = (
    _Flag("engine", "model", f"A model directory, a .gguf file, a built-in shape, or {config.DEMO_MODEL} (default)."),
    _Flag("engine", "tokenizer", "Not the model's own: gpt2, a tokenizer.json, a tiktoken file.", metavar="NAME|FILE"),
    _Flag("engine", "load_format", "Where weights come from; dummy: random.", config.LoadFormat),
    _Flag("engine", "dtype", "Of weights, activations and KV cache.", config.DTypeName),
    _Flag("engine", "quantize", "Weights in few bits, on a CPU; auto: as a GGUF file has them.", config.QuantizeName),
    _Flag("engine", "device", "cpu, cuda, cuda:N or auto (default).", metavar="DEVICE"),
    _Flag("engine", "attention", "The attention backend.", config.AttentionName),
    _Flag("engine", "max_batch_size", "Most requests a step.", int),
    _Flag("engine", "max_batch_tokens", "Most tokens a step.", int),
    _Flag("engine", "max_model_len", "Most tokens a request, prompt and completion.", int),
    _Flag(
        "engine",
        "compile",
        "On a CPU, use kernels that its C++ compiler makes (once); default: if they are made.",
        bool,
        names=("--compile/--no-compile",),
    ),
    _Flag("engine", "cuda_graphs", "On a GPU, replay CUDA graphs.", bool, names=("--cuda-graphs/--no-cuda-graphs",)),
    _Flag("engine", "max_decode_steps", "Tokens a request that one CUDA graph launch decodes at most.", int),
    _Flag(
        "engine",
        "overlap",
        "Launch a step before the last one's tokens are read.",
        bool,
        names=("--overlap/--no-overlap",),
    ),
    _Flag("engine", "block_size", "Tokens a KV block.", int),
    _Flag("engine", "kv_cache_memory", "Bytes like 2GiB, or a share of what is left, like 50%.", metavar="AMOUNT"),
    _Flag(
        "engine", "prefix_cache", "Share blocks of equal prefixes.", bool, names=("--prefix-cache/--no-prefix-cache",)
    ),
    _Flag("engine", "seed", "Of dummy weights and of sampling.", int),
    _Flag("workload", "mode", "How requests are scheduled.", config.Mode),
    _Flag(
        "workload", "prompts", "A prompt; may be given several times.", list[str], names=("--prompt",), metavar="TEXT"
    ),
    _Flag("workload", "prompts_file", "One prompt a line; - is stdin.", metavar="FILE"),
    _Flag("workload", "num_requests", "Repeat the prompts up to this many requests.", int),
    _Flag("workload", "raw", "Send prompts as they are, without the chat template.", bool, names=("--raw/--chat",)),
    _Flag("workload", "prompt_length", "Draw prompts of so many random ids.", metavar="LENGTH", group="load"),
    _Flag("workload", "completion_length", "Draw each request's --max-new-tokens.", metavar="LENGTH", group="load"),
    _Flag("workload", "shared_prefix_length", "Tokens that drawn prompts share.", int, group="load"),
    _Flag("workload", "num_prefixes", "Different shared prefixes.", int, group="load"),
    _Flag("workload", "turns", "Turns of each conversation.", int, group="load"),
    _Flag("workload", "request_rate", "Requests that arrive per second; unset: all at once.", float, group="load"),
    _Flag("workload", "burst_size", "Requests that arrive together; 1: Poisson.", int, group="load"),
    _Flag("workload", "seed", "Of drawn prompts and arrivals.", int, names=("--workload-seed",), group="load"),
    _Flag("sampling", "max_new_tokens", "Most tokens of a completion.", int),
    _Flag("sampling", "temperature", "0 is greedy.", float),
    _Flag("sampling", "do_sample", "Sample: temperature 1 unless given.", bool, names=("--do-sample/--no-do-sample",)),
    _Flag("sampling", "top_k", "Keep the k likeliest tokens; 0: all.", int),
    _Flag("sampling", "top_p", "Keep the likeliest tokens that reach this probability.", float),
    _Flag("sampling", "min_p", "Drop tokens below this share of the likeliest one's probability.", float),
    _Flag("sampling", "repetition_penalty", "Above 1: fewer tokens of prompt and completion again.", float),
    _Flag("sampling", "presence_penalty", "Off the logits of tokens in the completion.", float),
    _Flag("sampling", "frequency_penalty", "The same, for each time they occur.", float),
    _Flag("sampling", "min_new_tokens", "No stop before this many tokens.", int),
    _Flag("sampling", "stop", "End where this text appears; may be given several times.", list[str], metavar="TEXT"),
    _Flag("sampling", "stop_token_ids", "End at this token too; repeatable.", list[int], names=("--stop-token-id",)),
    _Flag("sampling", "n", "Completions per prompt.", int),
    _Flag("sampling", "logprobs", "Log-probabilities: this many alternatives a token (--json).", int),
    _Flag("sampling", "stop_on_eos", "End at EOS.", bool, names=("--stop-on-eos/--no-stop-on-eos",)),
    _Flag("profile", "skip_first", "Steps before the first cycle.", int),
    _Flag("profile", "wait", "Steps of a cycle with the profiler off.", int),
    _Flag("profile", "warmup", "Steps the profiler warms up in.", int),
    _Flag("profile", "active", "Steps to record.", int),
    _Flag("profile", "repeat", "Cycles, one trace file each.", int),
    _Flag("profile", "phase", "Begin with a step of this phase; steady: the largest decode.", config.ProfilePhase),
    _Flag(
        "profile",
        "loop",
        "Repeat the workload until the schedule is done (default).",
        bool,
        names=("--loop/--no-loop",),
    ),
    _Flag("profile", "record_shapes", "Record the operators' shapes (slower).", bool),
    _Flag("profile", "with_stack", "Record Python stacks (much slower).", bool),
    _Flag("profile", "profile_memory", "Record allocations (slower).", bool),
    _Flag("profile", "with_modules", "Record the module hierarchy (slower).", bool),
    _Flag("profile", "max_trace_size", "Warn before larger traces, like 1GiB.", metavar="SIZE"),
    _Flag("profile", "profile_dir", "Where run directories go.", metavar="DIR"),
    _Flag("profile", "top", "Rows of the top-ops table.", int),
    _Flag("profile", "sort_by", "Order of the top-ops table.", config.SortKey),
)

Command = Callable[..., int | None]
"""What Typer calls; the exit code, or None for 0."""


def configured(
    *groups: str,
    base: str | None = None,
    without: tuple[str, ...] = (),
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Command], Command]:
    """Give a command `--config` and the flags of `groups`, but those `without`; it gets a `RunConfig` first.

    A group is a config table, or `load`: what draws a workload. `base` is the shipped run that is read when no
    `--config` is given; `defaults` hold where neither a file nor a flag says anything.
    """
    flags = [flag for flag in _FLAGS if (flag.group or flag.table) in groups and flag.key not in without]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapper(*args: Any, config_name: str | None = None, **options: Any) -> int | None:
            overrides: dict[str, dict[str, Any]] = {}
            for flag in flags:
                value = options.pop(flag.name)
                if value is not None and value != []:
                    overrides.setdefault(flag.table, {})[flag.key] = value
            run = load_config(config_name or base, overrides, defaults)
            in_lines = options.get("input_file") is not None or (run.workload.prompts_file or "").endswith(".jsonl")
            _refuse_what_does_nothing(run, overrides, lines_have_settings=in_lines)
            return command(run, *args, **options)

        own = list(inspect.signature(command).parameters.values())[1:]
        name = inspect.Parameter("config_name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigName)
        shared = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
        own_flags = [parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        parameters = [*shared, name, *(flag.parameter for flag in flags), *own_flags]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _refuse_what_does_nothing(
    run: RunConfig, flags: Mapping[str, Mapping[str, Any]], *, lines_have_settings: bool
) -> None:
    """Raises UsageError for a flag that changes nothing beside the others; files may hold such keys, for other runs."""
    if not lines_have_settings:
        _refuse_filters_of_greedy(run.sampling, flags.get("sampling", {}))
    _refuse_graphs_where_none_are(run.engine, flags.get("engine", {}))


def _refuse_filters_of_greedy(sampling: SamplingParams, flags: Mapping[str, Any]) -> None:
    if sampling.temperature > 0:
        return
    for key in ("top_k", "top_p", "min_p"):
        if flags.get(key, getattr(_ALL_TOKENS, key)) != getattr(_ALL_TOKENS, key):
            raise UsageError(
                f"--{key.replace('_', '-')} does nothing at temperature 0, which is greedy: "
                "add --do-sample or a --temperature above 0, or drop it"
            )


_ALL_TOKENS = SamplingParams()


def _refuse_graphs_where_none_are(engine: EngineConfig, flags: Mapping[str, Any]) -> None:
    wanted = {"--cuda-graphs": flags.get("cuda_graphs"), "--max-decode-steps": flags.get("max_decode_steps", 1) > 1}
    flag = next((name for name, is_wanted in wanted.items() if is_wanted), None)
    if flag is None:
        return
    from roseinfer.engine.device import resolve_device  # imports torch

    if resolve_device(engine.device).type == "cpu":
        raise UsageError(f"{flag} is for a GPU, and this would run on the CPU: leave it out")
    if not engine.cuda_graphs:
        raise UsageError(f"{flag} needs CUDA graphs, which are turned off: leave it out, or add --cuda-graphs")
    if engine.attention == "gather":
        raise UsageError(f"{flag} needs CUDA graphs, which attention gather has none of: leave it out")
