"""Converting the values of options and arguments from text.

Typer converts them with pydantic, whose import takes longer than everything else that `--help` or the summary of a
small trace imports. The few types of our options need none of it.
"""

import types
from collections.abc import Callable, Mapping
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from roseinfer.errors import UsageError

_Parameter = Any
"""A parameter of Typer, whose own base class depends on Typer's version."""


def convert_without_pydantic(parameters: list[_Parameter], signature: Signature) -> None:
    """Make the parameters of a command convert their values here, by the annotations of its function.

    A parameter of another type, or of another function, is left to Typer if it is given. Parameters that convert their
    values already are left as they are.
    """
    for parameter in parameters:
        if "process_value" in vars(parameter):
            continue
        declared = signature.parameters.get(parameter.name)
        parameter.process_value = _processing(parameter, None if declared is None else declared.annotation)


def converted(name: str, text: str, kind: Any, *, minimum: float | None = None) -> object:
    """Return the value of the option `name` as `kind`: str, int, float, Path or a Literal of words.

    Raises UsageError for an invalid value, and NotImplementedError for another kind.
    """
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"invalid {name} {text!r}: give one of {', '.join(get_args(kind))}")
        return text
    if kind not in _ALLOWED:
        raise NotImplementedError(kind)
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"invalid {name} {text!r}: give {_ALLOWED[kind]}") from None
    if minimum is not None and value < minimum:
        raise UsageError(f"invalid {name} {text}: give {_ALLOWED[kind]} of at least {minimum:g}")
    return value


_ALLOWED: Mapping[Any, str] = {int: "an integer", float: "a number", str: "text", Path: "a path"}


def _processing(parameter: _Parameter, annotation: Any) -> Callable[[Any, Any], Any]:
    """Return the function that takes the place of the parameter's `process_value`."""
    by_typer = parameter.process_value
    kind, minimum = _kind_of(annotation), _minimum_of(annotation)

    def process_value(context: Any, value: Any) -> Any:
        if value is None and not parameter.required:
            value = () if parameter.multiple or parameter.nargs == -1 else None
        elif isinstance(value, str):
            try:
                value = converted(_name(parameter), value, kind, minimum=minimum)
            except NotImplementedError:
                return by_typer(context, value)
        elif isinstance(value, list | tuple) and get_origin(kind) is list and all(isinstance(v, str) for v in value):
            value = [converted(_name(parameter), each, get_args(kind)[0]) for each in value]
        elif not isinstance(value, bool | int):  # Typer's marks for a value that is missing
            return by_typer(context, value)
        return value if parameter.callback is None else parameter.callback(context, parameter, value)

    return process_value


def _name(parameter: _Parameter) -> str:
    """Return the name of an option as messages use it, or the placeholder of an argument."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())


def _kind_of(annotation: Any) -> Any:
    """Return the type of a parameter without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _minimum_of(annotation: Any) -> float | None:
    """Return the smallest value that the option in an `Annotated` allows; None if there is no limit."""
    options = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    minimum: float | None = next((option.min for option in options if getattr(option, "min", None) is not None), None)
    return minimum
