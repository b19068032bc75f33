"""Typed configuration: one TOML file, `[engine] [sampling] [workload] [profile]`, becomes one `RunConfig`.

Unknown keys, wrong types and values out of range are errors that name the key. Command-line flags arrive as
`overrides` and win over the file.
"""

import tomllib
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from roseinfer.errors import UsageError

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


def load_config(
    name_or_path: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read a TOML file, or a shipped run by its name, and lay `overrides` ({table: {key: value}}) over it.

    `defaults` hold where neither says anything. Raises UsageError, naming the key, for anything that is not a valid
    configuration.
    """
    raw = _read_toml(name_or_path) if name_or_path is not None else {}
    for table, values in (overrides or {}).items():
        below = raw.setdefault(table, {})
        if not isinstance(below, dict):
            break  # convert() below names the wrong table
        _drop_what_flags_replace(below, values)
        below.update(values)
    for table, values in (defaults or {}).items():
        if isinstance(raw.get(table, {}), dict):
            raw[table] = {**values, **raw.get(table, {})}
    if isinstance(raw.get("sampling"), dict):
        _resolve_do_sample(raw["sampling"])
    try:
        return msgspec.convert(raw, RunConfig, str_keys=True)
    except msgspec.ValidationError as error:
        table, _, key = _place(error).partition("[")[0].partition(".")
        is_the_files = name_or_path is not None and key not in (overrides or {}).get(table, {})
        raise UsageError(f"{name_or_path}: {_one_line(error)}" if is_the_files else _one_line(error)) from None


def sampling_with(base: SamplingParams, overrides: Mapping[str, Any]) -> SamplingParams:
    """`base` with some keys of [sampling] replaced, as a single request brings them.

    Raises UsageError, naming the key, for anything that is not a valid setting.
    """
    raw = {key: getattr(base, key) for key in base.__struct_fields__}
    _drop_what_flags_replace(raw, overrides)
    raw.update(overrides)
    _resolve_do_sample(raw)
    try:
        return msgspec.convert({"sampling": raw}, RunConfig, str_keys=True).sampling
    except msgspec.ValidationError as error:
        raise UsageError(_one_line(error)) from None


def shipped_configs() -> list[str]:
    """The names that `--config NAME` accepts."""
    folder = _configs_dir()
    return sorted(path.stem for path in folder.glob("*.toml")) if folder is not None else []


def _drop_what_flags_replace(below: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Where two keys say one thing in two ways, a flag for one replaces the file's other where that contradicts it."""
    sources = ("prompts", "prompts_file", "prompt_length")
    for flag, other in (("temperature", "do_sample"), *permutations(sources, 2)):
        if flag in values and other not in values:
            below.pop(other, None)
    if "do_sample" in values and "temperature" not in values and bool(below.get("temperature")) != values["do_sample"]:
        below.pop("temperature", None)


def _resolve_do_sample(sampling: dict[str, Any]) -> None:
    """`do_sample` is sugar for a temperature: true means 1.0 unless one is given, false means 0."""
    do_sample = sampling.pop("do_sample", None)
    if do_sample is None:
        return
    if not isinstance(do_sample, bool):
        raise UsageError(f"sampling.do_sample: expected true or false, got {do_sample!r}")
    temperature = sampling.get("temperature")
    if do_sample and temperature == 0:
        raise UsageError("sampling with temperature 0 is greedy: give a temperature above 0, or drop do_sample")
    if not do_sample and temperature:
        raise UsageError(f"temperature {temperature} samples: drop it, or drop do_sample = false")
    if temperature is None:
        sampling["temperature"] = 1.0 if do_sample else 0.0


def _read_toml(name_or_path: str) -> dict[str, Any]:
    path = _find(name_or_path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _find(name_or_path: str) -> Path:
    """A path when it looks like one, else the name of a shipped run."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.parent != Path():
        if not path.is_file():
            raise UsageError(f"config file {path} does not exist")
        return path
    folder = _configs_dir()
    if folder is not None and (folder / f"{name_or_path}.toml").is_file():
        return folder / f"{name_or_path}.toml"
    raise UsageError(f"no config named {name_or_path!r}; shipped: {_listed(shipped_configs())}; or give a .toml file")


def _configs_dir() -> Path | None:
    """`configs/` lies inside an installed package, and beside the package in a source tree."""
    package = Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    return None


def _one_line(error: msgspec.ValidationError) -> str:
    """msgspec's "message - at `$.table.key`" as "table.key: message"."""
    message, key = str(error).partition(" - at `$")[0], _place(error)
    if message.startswith("Object contains unknown field"):
        field = message.split("`")[1]
        known = _known_keys(key)
        hint = f"; known keys: {_listed(known)}" if known else ""
        return f"unknown key {f'{key}.{field}' if key else field}{hint}"
    if message.startswith("Invalid enum value"):
        message = f"{message}; one of {_listed(_choices(key))}"
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message


def _place(error: msgspec.ValidationError) -> str:
    """What is wrong: table.key, or table.key[...] for an item of a list."""
    return str(error).partition(" - at `$")[2].rstrip("`").lstrip(".")


def _known_keys(table: str) -> list[str]:
    struct = RunConfig() if not table else getattr(RunConfig(), table, None)
    return list(struct.__struct_fields__) if isinstance(struct, msgspec.Struct) else []


def _choices(key: str) -> tuple[str, ...]:
    table, _, field = key.partition(".")
    for known in msgspec.structs.fields(getattr(RunConfig(), table)):
        if known.name == field:
            return get_args(known.type)
    return ()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
