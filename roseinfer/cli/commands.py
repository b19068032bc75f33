"""How commands are found, parsed and documented: imported when they are called, with our own `--help` page."""

from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from inspect import Signature, signature
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from roseinfer.cli.help_page import HelpPage, with_default
from roseinfer.cli.option_values import convert_without_pydantic
from roseinfer.cli.shown_defaults import ShownDefault, own_default

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps the function of a command."""

_PANELS = (
    "Model",
    "Workload",
    "Grid",
    "Batch",
    "Ray",
    "Profile",
    "Measurement",
    "Comparison",
    "Advice",
    "Output",
    "Sampling",
    "Engine",
    "General",
)
"""Groups of options on a help page, in the order in which people need them."""
_LAST_PANEL = _PANELS[-1]


class Command(NamedTuple):
    """A command that is imported when it is called."""

    module: str
    """Module with a function of the command's name, and its EXAMPLES: (what it does, command line) pairs."""
    summary: str
    """First sentence of the function's docstring, for the list of commands."""


class LazyCommands(MutableMapping[str, Any]):
    """The commands of a group by name. Looking one up imports it."""

    def __init__(self, sources: dict[str, Command], wrapper: Wrapper) -> None:
        self.sources = sources
        self._wrapper = wrapper
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._load(name, self.sources[name].module)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        self._loaded.pop(name, None)
        del self.sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def _load(self, name: str, module_name: str) -> Any:
        module = import_module(module_name)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name=name, cls=HelpfulCommand, context_settings=CONTEXT_SETTINGS)(
            self._wrapper(getattr(module, name))
        )
        command = typer.main.get_command(app)
        command.examples = module.EXAMPLES  # type: ignore[attr-defined]
        return command


class HelpfulCommand(TyperCommand):
    """A command that prints our help page in place of Typer's, and converts its options without pydantic."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.examples: tuple[tuple[str, str], ...] = ()

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments, among them those that Typer adds."""
        params: list[Any] = super().get_params(ctx)
        convert_without_pydantic(params, signature(self.callback) if self.callback is not None else Signature())
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, description, arguments, options and examples."""
        params = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        arguments = [param for param in params if param.param_type_name == "argument"]
        page = HelpPage()
        page.usage(ctx.command_path, "[OPTIONS]", *(_placeholder(argument) for argument in arguments))
        page.paragraphs(self.help or "")
        page.section("Arguments", ((_placeholder(each), getattr(each, "help", None) or "") for each in arguments))
        defaults: ShownDefault = getattr(self.callback, "shown_default", own_default)
        for title, options in _panels(params):
            page.section(title, ((_left(option), _right(option, defaults)) for option in options))
        page.examples(self.examples)
        _write(page, ctx, formatter)


class CommandGroup(TyperGroup):
    """The top-level command `roseinfer`: its help page, and commands that are imported when they are called."""

    sources: ClassVar[dict[str, Command]] = {}
    """The commands by name, in the order in which `--help` lists them."""
    examples: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(what it does, command line) pairs at the end of `--help`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands(self.sources, self.wrapped)

    @staticmethod
    def wrapped(command: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that runs for a command."""
        return command

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of declaration."""
        return list(self.sources)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, among them those that Typer adds."""
        params: list[Any] = super().get_params(ctx)
        convert_without_pydantic(params, Signature())
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, description, commands, options and examples."""
        page = HelpPage()
        page.usage(ctx.command_path, "[OPTIONS]", "COMMAND", "[ARGS]...")
        page.paragraphs(self.help or "")
        page.section("Commands", ((name, source.summary) for name, source in self.sources.items()))
        page.section(_LAST_PANEL, ((_left(param), _right(param, own_default)) for param in self.get_params(ctx)))
        page.examples(self.examples)
        _write(page, ctx, formatter)


def _write(page: HelpPage, ctx: Any, formatter: Any) -> None:
    ctx.color = page.has_colors  # click would decide by the terminal alone, and remove colours that were forced
    formatter.write(page.rendered())


def _panels(params: list[Any]) -> list[tuple[str, list[Any]]]:
    """Return (title, options) pairs in the order of `_PANELS`."""
    panels: dict[str, list[Any]] = {}
    for param in params:
        if param.param_type_name == "option":
            panels.setdefault(getattr(param, "rich_help_panel", None) or _LAST_PANEL, []).append(param)
    return sorted(panels.items(), key=lambda item: _PANELS.index(item[0]))


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _left(option: Any) -> str:
    """Return an option's names and the placeholder of its value."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        names += "/" + "/".join(option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or option.name.upper()}"


def _right(option: Any, default: ShownDefault) -> str:
    """Return an option's help, with the default in brackets if there is one to show."""
    return with_default(str(option.help or ""), default(option))
