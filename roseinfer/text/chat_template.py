"""Chat templates: rendering messages into the text format that a chat model was trained on."""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from roseinfer.errors import ModelError
from roseinfer.model_files import reason, shortened
from roseinfer.text.template_budget import TemplateBudget, TemplateLimitError, size_of
from roseinfer.text.template_environment import BUDGET, CountedEnvironment

MAX_SOURCE = 1 << 18
"""Maximum characters of a template. The longest ones of published models have 30,000."""
_REMEDY = "give --raw to send prompts without the template"


class ChatTemplate:
    """A model's Jinja template. It runs in a sandbox, because a file that comes with a model is not trusted.

    The Jinja environment has the extensions, filters and globals that Hugging Face's templates rely on. Raises
    ModelError for a template that cannot be parsed, or that is longer than `MAX_SOURCE`.
    """

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        if len(source) > MAX_SOURCE:
            raise ModelError(
                f"the model's chat template has {len(source):,} characters, and the limit is {MAX_SOURCE:,}: {_REMEDY}"
            )
        try:
            self._template = _environment().compiled(source)
        # Besides errors in the template: RecursionError, and Python's own limits of nesting.
        except Exception as error:
            raise ModelError(f"the model's chat template is broken ({_one_line(error)}): {_REMEDY}") from None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation of {"role", "content"} messages, up to the start of the assistant's turn.

        The text contains control tokens: encode it with `allow_special=True`. Raises ModelError if the template
        rejects the messages, fails, or exceeds a limit of `TemplateBudget`.
        """
        budget = TemplateBudget(size_of(list(messages), sys.maxsize), len(messages))
        token = BUDGET.set(budget)
        try:
            parts = self._template.generate(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            )
            return "".join(map(budget.write, parts))
        except TemplateLimitError as error:
            raise ModelError(f"the model's chat template was ended, because {error}: {_REMEDY}") from None
        # A template can raise anything that Python code can: a missing key, a wrong type, a sandbox violation.
        except Exception as error:
            raise ModelError(f"the model's chat template failed ({_one_line(error)}): {_REMEDY}") from None
        finally:
            BUDGET.reset(token)


def _environment() -> CountedEnvironment:
    environment = CountedEnvironment(
        {"tojson": _tojson}, trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
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
    is_own = isinstance(error, jinja2.TemplateError)  # its message is for the user, such as that of raise_exception
    return shortened(str(error)) if is_own and str(error) else reason(error)
