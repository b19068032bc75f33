"""Defaults of options as `--help` shows them. A config file's defaults are those of the command's shipped config."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roseinfer.config import RunConfig

ShownDefault = Callable[[Any], str | None]
"""Returns the default of an option of Typer as text; None if there is none to show."""


def own_default(option: Any) -> str | None:
    """Return the default that the option itself declares."""
    if not option.show_default or option.is_flag or option.default is None:
        return None
    return _shown(option.default)


def config_default(option: Any, run: "RunConfig") -> str | None:
    """Return the default that `run` sets for an option; that of the option itself if it is no config key."""
    from roseinfer.cli.config_flags import CONFIG_FLAGS

    flag = next((flag for flag in CONFIG_FLAGS if flag.option in option.opts), None)
    if flag is None:
        return own_default(option)
    value = getattr(getattr(run, flag.table), flag.key, None)
    if isinstance(value, bool):
        named = option.opts if value else option.secondary_opts
        return str(named[0]) if named else None
    return flag.unset if value is None else _shown(value)


def _shown(value: object) -> str | None:
    """Return a value as the user types it; None for a list."""
    if isinstance(value, tuple | list | dict):
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)
