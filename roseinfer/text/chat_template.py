"""Chat templates: rendering messages into the text format that a chat model was trained on."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from roseinfer.errors import ModelError

_REMEDY = "give --raw to send prompts without the template"


class ChatTemplate:
    """A model's Jinja template. It runs in a sandbox, because a file that comes with a model is not trusted.

    The Jinja environment has the extensions, filters and globals that Hugging Face's templates rely on. Raises
    ModelError for a template that cannot be parsed.
    """

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"the model's chat template is broken ({_one_line(error)}): {_REMEDY}") from None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation of {"role", "content"} messages, up to the start of the assistant's turn.

        The text contains control tokens: encode it with `allow_special=True`. Raises ModelError if the template
        rejects the messages or fails.
        """
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            )
        # A template can raise anything that Python code can: a missing key, a wrong type, a sandbox violation.
        except Exception as error:
            raise ModelError(f"the model's chat template failed ({_one_line(error)}): {_REMEDY}") from None


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationTag(Extension):
    """The tag `{% generation %}...{% endgeneration %}`, which marks the assistant's words for training.

    For inference the words between the tags are plain text.
    """

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Encode a value as JSON. Jinja's own filter also escapes HTML, which would change the model's input."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
