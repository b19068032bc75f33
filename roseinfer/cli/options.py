"""Options that commands share, each declared once.

`configured(...)` adds the options of some config tables to a command and passes it the finished `RunConfig`, so no
command handles a flag that is also a config key.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Annotated, Any, NamedTuple

import typer

from roseinfer.cli import console
from roseinfer.cli.completion import complete_config
from roseinfer.cli.config_flags import CONFIG_FLAGS
from roseinfer.cli.shown_defaults import config_default
from roseinfer.cli.useless_flags import refuse_useless_flags
from roseinfer.config_file import load_config, load_config_and_sampling
from roseinfer.distributed.rank_processes import start_ranks_early
from roseinfer.distributed.torchrun import is_other_rank, is_under_torchrun


def _set_quiet(value: bool) -> bool:
    console.settings.quiet = value
    return value


def _set_debug(value: bool) -> bool:
    console.settings.debug = value
    return value


Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout and nothing else there.", rich_help_panel="Output"),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_set_quiet, help="Print results and errors only.", rich_help_panel="Output"),
]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Print the traceback of an error.")]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME|PATH",
        help="Shipped config or TOML file; options override its keys.",
        rich_help_panel="Model",
        autocompletion=complete_config,
    ),
]


class GivenSampling(NamedTuple):
    """The sampling settings that a user gave, by key."""

    settings: Mapping[str, Any]
    """Settings of the config file and of options, which win over it."""
    flags: Mapping[str, Any]
    """Settings of options alone."""


_GIVEN = "given"
"""Name of the argument that `passes_given` adds."""

Command = Callable[..., int | None]
"""A function that Typer calls; returns the exit code, or None for 0."""


def configured(
    *groups: str,
    base: str | None = None,
    without: tuple[str, ...] = (),
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    passes_given: bool = False,
) -> Callable[[Command], Command]:
    """Add `--config` and the flags of `groups` to a command, whose first parameter becomes a `RunConfig`.

    A group is a config table, or `load`: the options that draw a workload. Keys in `without` get no flag. `base` is
    the shipped config to read if no `--config` is given; `defaults` hold where neither a file nor a flag sets a key.
    With `passes_given`, the command's keyword argument `given` is a `GivenSampling`, and the command itself refuses
    flags without effect, because a model may recommend settings. The command's attribute `shown_default` is a function
    that returns an option's default as text, for `--help`.
    """
    flags = [flag for flag in CONFIG_FLAGS if (flag.group or flag.table) in groups and flag.key not in without]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapper(*args: Any, config_name: str | None = None, **options: Any) -> int | None:
            overrides: dict[str, dict[str, Any]] = {}
            for flag in flags:
                value = options.pop(flag.parameter_name)
                if value is not None and value != []:
                    overrides.setdefault(flag.table, {})[flag.key] = value
            run, set_sampling = load_config_and_sampling(config_name or base, overrides, defaults)
            if is_other_rank(run.engine.tensor_parallel):
                from roseinfer.engine.factory import build_engine

                build_engine(run.engine)  # serves rank 0, which runs the command, and ends the process
            if passes_given:
                options[_GIVEN] = GivenSampling(set_sampling, overrides.get("sampling", {}))
            in_lines = passes_given or (run.workload.prompts_file or "").endswith(".jsonl")
            refuse_useless_flags(run, overrides, requests_have_settings=in_lines)
            if run.engine.tensor_parallel > 1 and not is_under_torchrun():
                start_ranks_early(run.engine.tensor_parallel)
            return command(run, *args, **options)

        own = list(inspect.signature(command).parameters.values())[1:]
        name = inspect.Parameter("config_name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigName)
        arguments = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
        own_flags = [parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        own_flags = [parameter for parameter in own_flags if parameter.name != _GIVEN]
        parameters = [*arguments, name, *(flag.parameter for flag in flags), *own_flags]
        without_flags = cache(lambda: load_config(base, {}, defaults))
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapper.__dict__.update(
            __signature__=inspect.Signature(parameters),
            shown_default=lambda option: config_default(option, without_flags()),
        )
        return wrapper

    return decorate
