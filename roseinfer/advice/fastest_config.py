"""The file `fastest.toml` of a run directory: the run's configuration with the settings that helped."""

import json
from pathlib import Path

import msgspec

from roseinfer.config import RunConfig
from roseinfer.whole_file import write_whole

FILE = "fastest.toml"


def write_fastest_config(run_dir: Path, config: RunConfig, comment: str) -> Path:
    """Write a configuration that `--config` reads, below a comment of one line, and return its path."""
    path = run_dir / FILE
    write_whole(path, f"# {comment}\n{as_toml(config)}".encode())
    return path


def as_toml(config: RunConfig) -> str:
    """Return the tables of a configuration as TOML, without the settings that have their default."""
    lines = []
    for table in ("engine", "sampling", "workload"):
        settings, usual = getattr(config, table), getattr(RunConfig(), table)
        changed = {key: getattr(settings, key) for key in settings.__struct_fields__}
        changed = {key: value for key, value in changed.items() if value != getattr(usual, key) and value is not None}
        if changed:
            lines += ["", f"[{table}]", *(f"{key} = {_value(value)}" for key, value in changed.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():  # as in JSON, but JSON does not escape DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{ " + ", ".join(f"{json.dumps(str(key))} = {_value(one)}" for key, one in value.items()) + " }"
        case tuple() | list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return repr(msgspec.to_builtins(value))
