"""The pages of `--help`: one entry per option, with the default that the command really uses.

Typer's own page splits words and truncates option names at 80 columns. It does not know the defaults of a config file.
"""

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

from roseinfer.cli import console
from roseinfer.cli.config_flags import CONFIG_FLAGS
from roseinfer.config import RunConfig

_MAX_WIDTH = 100
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SHORT = 30
"""Length below which `[default: ...]` is never split between two lines."""
_HELP_COLUMN = 30
_LAST_PANEL = "General"
_CONFIG_PANELS = ("Engine", "Workload", "Sampling")
"""Panels of options that most commands share, shown after the options of the command itself."""


class HelpfulCommand(TyperCommand):
    """A command that prints our help page in place of Typer's."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, description, arguments and options."""
        params = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        arguments = [param for param in params if param.param_type_name == "argument"]
        page = _Page()
        page.usage(ctx.command_path, "[OPTIONS]", *(_placeholder(argument) for argument in arguments))
        page.paragraphs(self.help or "")
        page.section("Arguments", ((_placeholder(each), getattr(each, "help", None) or "") for each in arguments))
        run = _default_run(self.callback)
        for title, options in _panels(params):
            page.section(title, ((_left(option), _right(option, run)) for option in options))
        formatter.write(page.rendered())


class HelpfulGroup(TyperGroup):
    """The top-level command `roseinfer`, which prints our help page in place of Typer's."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, description, commands and options."""
        page = _Page()
        page.usage(ctx.command_path, "[OPTIONS]", "COMMAND", "[ARGS]...")
        page.paragraphs(self.help or "")
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        page.section("Commands", ((name, command.get_short_help_str(200)) for name, command in commands if command))
        page.section(_LAST_PANEL, ((_left(param), _right(param, None)) for param in self.get_params(ctx)))
        formatter.write(page.rendered())


class _Page:
    """A help page under construction."""

    def __init__(self) -> None:
        from rich.text import Text

        self._text: Text = Text()
        self._width = min(console.stdout.width, _MAX_WIDTH)

    def usage(self, *words: str) -> None:
        self._text.append("Usage: ", "bold")
        self._text.append(" ".join(words) + "\n")

    def paragraphs(self, text: str) -> None:
        for paragraph in text.split("\n\n"):
            self._text.append("\n" + "\n".join(_wrap(paragraph, self._width)) + "\n")

    def section(self, title: str, entries: Iterator[tuple[str, str]]) -> None:
        """Append a titled list of (name, help), the help on the next line if the name is too long."""
        for index, (name, about) in enumerate(entries):
            if index == 0:
                self._text.append(f"\n{title}\n", "bold")
            self._text.append(f"  {name}", "cyan")
            gap = _HELP_COLUMN - len(name) - 2
            indent = "\n" + " " * _HELP_COLUMN
            lines = _wrap(about, self._width - _HELP_COLUMN)
            self._text.append((indent if gap < 2 else " " * gap) + indent.join(lines) + "\n")

    def rendered(self) -> str:
        """Return the page, with colours if stdout is a terminal."""
        with console.stdout.capture() as captured:
            console.stdout.print(self._text, soft_wrap=True, end="")
        return captured.get()


def _wrap(text: str, width: int) -> list[str]:
    """Split text into lines at blanks only."""
    lines = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _panels(params: list[Any]) -> list[tuple[str, list[Any]]]:
    """Return (title, options) pairs: the command's own panels, those of the config, and the rest."""
    panels: dict[str, list[Any]] = {}
    for param in params:
        if param.param_type_name == "option":
            panels.setdefault(getattr(param, "rich_help_panel", None) or _LAST_PANEL, []).append(param)
    return sorted(panels.items(), key=lambda item: (item[0] == _LAST_PANEL, item[0] in _CONFIG_PANELS))


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _left(option: Any) -> str:
    """Return an option's names and the placeholder of its value."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        names += "/" + "/".join(option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or option.name.upper()}"


def _right(option: Any, run: RunConfig | None) -> str:
    """Return an option's help, with the default in brackets if there is a fixed one."""
    default = _default(option, run)
    about = str(option.help or "")
    if default is None:
        return about
    bracket = f"[default: {default}]."
    # No-break spaces keep a short `[default: ...]` on one line.
    return f"{about.rstrip('.')} {bracket.replace(' ', _NO_BREAK) if len(bracket) < _SHORT else bracket}"


def _default(option: Any, run: RunConfig | None) -> str | None:
    flag = next((flag for flag in CONFIG_FLAGS if flag.option in option.opts), None)
    if run is None or flag is None:
        shows_own = option.show_default and not option.is_flag and option.default is not None
        return _shown(option.default) if shows_own else None
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


def _default_run(callback: Any) -> RunConfig | None:
    """Return the config that a command runs with if no option is given; None for a command without a config."""
    load: Callable[[], RunConfig] | None = getattr(callback, "default_run", None)
    return None if load is None else load()
