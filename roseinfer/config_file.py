"""Reading a `RunConfig` from a TOML file, with command-line options laid over it.

Unknown keys, wrong types and values out of range are errors that name the key or the option.
"""

import tomllib
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import msgspec

from roseinfer.config import RunConfig, SamplingParams
from roseinfer.errors import UsageError


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
