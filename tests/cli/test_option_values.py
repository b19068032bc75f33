"""Values of options are converted as their annotations say, and wrong ones are refused in our words."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from roseinfer.cli.commands import HelpfulCommand
from roseinfer.cli.option_values import converted
from roseinfer.errors import UsageError


@given(value=st.integers(min_value=-(2**80), max_value=2**80))
def test_integers_are_read_as_written(value: int) -> None:
    assert converted("--n", str(value), int) == value


@given(value=st.floats(allow_nan=False))
def test_numbers_are_read_as_written(value: float) -> None:
    assert converted("--x", repr(value), float) == value


@pytest.mark.parametrize(
    ("text", "kind", "minimum", "message"),
    [
        ("many", int, None, "invalid --x 'many': give an integer"),
        ("1.5", int, None, "invalid --x '1.5': give an integer"),
        ("", int, None, "invalid --x '': give an integer"),
        ("0", int, 1, "invalid --x 0: give an integer of at least 1"),
        ("half", float, None, "invalid --x 'half': give a number"),
        ("c", Literal["a", "b"], None, "invalid --x 'c': give one of a, b"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    text: str, kind: Any, minimum: float | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        converted("--x", text, kind, minimum=minimum)
    assert str(caught.value) == message


def parsed(*arguments: str) -> dict[str, Any]:
    """Return the values that a command with options of every kind receives."""
    received: dict[str, Any] = {}
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command(cls=HelpfulCommand)
    def command(
        words: Annotated[list[str] | None, typer.Argument()] = None,
        path: Annotated[Path | None, typer.Option("--path")] = None,
        number: Annotated[int, typer.Option("--number", min=1)] = 3,
        share: Annotated[float | None, typer.Option("--share")] = None,
        choice: Annotated[Literal["a", "b"], typer.Option("--choice")] = "a",
        ids: Annotated[list[int] | None, typer.Option("--id")] = None,
        flag: Annotated[bool | None, typer.Option("--flag/--no-flag")] = None,
        size: Annotated[complex | None, typer.Option("--size", parser=complex)] = None,
    ) -> None:
        received.update(locals())

    CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return {name: value for name, value in received.items() if name not in ("received", "app", "command")}


def test_options_that_are_not_given_have_their_defaults() -> None:
    values = parsed()
    assert values.pop("words") in (None, [])
    assert values.pop("ids") in (None, [])
    assert values == {"path": None, "number": 3, "share": None, "choice": "a", "flag": None, "size": None}


def test_every_kind_of_option_receives_its_type() -> None:
    line = "x 2 --path a/b --number 7 --share 1e-3 --choice b --id 1 --id 2 --no-flag --size 1+2j"
    assert parsed(*line.split()) == {
        "words": ["x", "2"],
        "path": Path("a/b"),
        "number": 7,
        "share": 1e-3,
        "choice": "b",
        "ids": [1, 2],
        "flag": False,
        "size": 1 + 2j,  # of a kind that only Typer converts
    }


def test_a_limit_of_an_option_holds() -> None:
    with pytest.raises(UsageError, match="invalid --number 0: give an integer of at least 1"):
        parsed("--number", "0")
