"""Reading a `RunConfig`: a TOML file, or a shipped configuration by name, with command-line options laid over it."""

import tomllib
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.config import RunConfig, SamplingParams
from roseinfer.config_messages import Naming, dotted_key, invalid_setting, option_name, setting_of
from roseinfer.errors import UsageError
from roseinfer.model_files import shortened
from roseinfer.setting_words import listed

_FORMER_NAMES = {"origin-gpt2": "tutorial-gpt2"}
"""Former names of shipped configurations, with their present ones. `--config` still accepts them."""

_PROMPT_SOURCES = ("prompts", "prompts_file", "prompt_length")


def load_config(
    name_or_path: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read a TOML file, or a shipped configuration by its name, and lay `overrides` over it.

    `overrides` ({table: {key: value}}) win over the file; `defaults` apply to keys that neither of them sets. Raises
    UsageError, naming the option or the key, for anything that is not a valid configuration.
    """
    return load_config_and_sampling(name_or_path, overrides, defaults)[0]


def load_config_and_sampling(
    name_or_path: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[RunConfig, dict[str, Any]]:
    """Return what `load_config` does, and the sampling settings that the file or `overrides` set.

    The settings are as `sampling_with` takes them.
    """
    given = overrides or {}
    raw = _read_toml(name_or_path) if name_or_path is not None else {}
    _lay_over(raw, given, {})
    sampling = raw.get("sampling", {})
    set_sampling = dict(sampling) if isinstance(sampling, dict) else {}
    _lay_over(raw, {}, defaults or {})

    def is_option(table: str, key: str) -> bool:
        return key in given.get(table, {})

    def name(table: str, key: str) -> str:
        return option_name(table, key) if is_option(table, key) else dotted_key(table, key)

    def refused(message: str, table: str, key: str) -> UsageError:
        is_in_file = name_or_path is not None and not is_option(table, key)
        return UsageError(f"{name_or_path}: {message}" if is_in_file else message)

    if isinstance(raw.get("sampling"), dict):
        try:
            _resolve_do_sample(raw["sampling"], name)
        except UsageError as error:
            raise refused(str(error), "sampling", "do_sample") from None
    try:
        return msgspec.convert(raw, RunConfig, str_keys=True), set_sampling
    except msgspec.ValidationError as error:
        raise refused(invalid_setting(error, raw, name), *setting_of(error)) from None


def sampling_with(base: SamplingParams, overrides: Mapping[str, Any]) -> SamplingParams:
    """Return `base` with some settings replaced, such as those of one request.

    Raises UsageError, naming the setting by its key, for an invalid value.
    """
    raw = {key: getattr(base, key) for key in base.__struct_fields__}
    _drop_contradicted(raw, overrides)
    raw.update(overrides)
    _resolve_do_sample(raw, _bare_key)
    tables = {"sampling": raw}
    try:
        return msgspec.convert(tables, RunConfig, str_keys=True).sampling
    except msgspec.ValidationError as error:
        raise UsageError(invalid_setting(error, tables, _bare_key)) from None


def shipped_configs() -> list[str]:
    """Return the names of the shipped configurations, in alphabetical order."""
    folder = _configs_dir()
    return sorted(path.stem for path in folder.glob("*.toml")) if folder is not None else []


def _lay_over(
    raw: dict[str, Any], overrides: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]
) -> None:
    """Change `raw`, the tables of a file, in place: `overrides` win over it, `defaults` fill what is missing."""
    for table, values in overrides.items():
        below = raw.setdefault(table, {})
        if not isinstance(below, dict):
            break  # msgspec reports a table that has another type
        _drop_contradicted(below, values)
        below.update(values)
    for table, values in defaults.items():
        if isinstance(raw.get(table, {}), dict):
            raw[table] = {**values, **raw.get(table, {})}


def _drop_contradicted(below: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Remove settings from `below` that the overriding `values` contradict under another key.

    `--temperature` replaces a file's `do_sample`, and one source of prompts replaces another.
    """
    for option, other in (("temperature", "do_sample"), *permutations(_PROMPT_SOURCES, 2)):
        if option in values and other not in values:
            below.pop(other, None)
    if "do_sample" in values and "temperature" not in values and bool(below.get("temperature")) != values["do_sample"]:
        below.pop("temperature", None)


def _resolve_do_sample(sampling: dict[str, Any], name: Naming) -> None:
    """Replace `do_sample` by a temperature, in place: true is 1.0 unless a temperature is set, false is 0."""
    do_sample = sampling.pop("do_sample", None)
    if do_sample is None:
        return
    setting, temperature_setting = name("sampling", "do_sample"), name("sampling", "temperature")
    if not isinstance(do_sample, bool):
        raise UsageError(f"invalid {setting} {do_sample!r}: give true or false")
    temperature = sampling.get("temperature")
    if do_sample and temperature == 0:
        raise UsageError(
            f"{setting} contradicts {temperature_setting} {temperature:g}, which is greedy: "
            f"give a temperature above 0, or drop {setting}"
        )
    if not do_sample and temperature:
        off = setting.replace("--", "--no-", 1) if setting.startswith("--") else f"{setting} false"
        raise UsageError(f"{off} contradicts {temperature_setting} {temperature}, which samples: drop one of the two")
    if temperature is None:
        sampling["temperature"] = 1.0 if do_sample else 0.0


def _read_toml(name_or_path: str) -> dict[str, Any]:
    path = _find(name_or_path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read config file {path}: {error.strerror}") from None
    except RecursionError:
        raise UsageError(f"{path} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {shortened(str(error))}") from None


def _find(name_or_path: str) -> Path:
    """Return the argument as a path if it looks like one, else the path of the shipped configuration of that name."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.parent != Path():
        if not path.is_file():
            raise UsageError(f"config file {path} does not exist")
        return path
    folder = _configs_dir()
    name = _FORMER_NAMES.get(name_or_path, name_or_path)
    if folder is not None and (folder / f"{name}.toml").is_file():
        return folder / f"{name}.toml"
    raise UsageError(f"no config named {name_or_path!r}: give a .toml file, or one of: {listed(shipped_configs())}")


def _configs_dir() -> Path | None:
    """Return the directory of the shipped configurations: inside an installed package, or next to it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    return None


def _bare_key(table: str, key: str) -> str:
    """Name a setting as a request in a JSON line does: by its key alone."""
    return key
