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

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names by which Hugging Face's files distinguish several templates of one model."""

_REMEDY = "give --raw to send prompts without the template"


class ChatTemplate:
    """A model's Jinja template. It runs in a sandbox, because a file that comes with a model is not trusted.

    The Jinja environment has the extensions, filters and globals that Hugging Face's templates rely on. A template is
    parsed when it is first rendered, so that a broken one does not prevent prompts without a template.
    """

    def __init__(self, source: str | Mapping[str, str], bos_token: str, eos_token: str) -> None:
        """`source` is the only template, or several by name: `tool_use` serves chats with tools, `default` the others.

        If there is no `default`, the first template serves.
        """
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._sources = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self._parsed: dict[str, jinja2.Template] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of a conversation of {"role", "content"} messages, up to the start of the assistant's turn.

        `tools` are descriptions of functions that the model may call, in OpenAI's form. `options` are further variables
        of the template, such as {"enable_thinking": False}. The text contains control tokens: encode it with
        `allow_special=True`. Raises ModelError if the template is broken or longer than `MAX_SOURCE`, rejects the
        messages, fails, or exceeds a limit of `TemplateBudget`.
        """
        template = self._template(TOOL_USE if tools and TOOL_USE in self._sources else DEFAULT)
        variables = {"add_generation_prompt": add_generation_prompt, "documents": None, **self._tokens}
        given = {**(options or {}), "messages": list(messages), "tools": list(tools) if tools else None}
        budget = TemplateBudget(size_of(given, sys.maxsize), len(messages))
        token = BUDGET.set(budget)
        try:
            return "".join(map(budget.write, template.generate({**variables, **given})))
        except TemplateLimitError as error:
            raise ModelError(f"the model's chat template was ended, because {error}: {_REMEDY}") from None
        # A template can raise anything that Python code can: a missing key, a wrong type, a sandbox violation.
        except Exception as error:
            raise ModelError(f"the model's chat template failed ({_one_line(error)}): {_REMEDY}") from None
        finally:
            BUDGET.reset(token)

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._parsed:
            source = self._sources[name] if name in self._sources else next(iter(self._sources.values()))
            self._parsed[name] = _parsed(source)
        return self._parsed[name]


def _parsed(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise ModelError(
            f"the model's chat template has {len(source):,} characters, and the limit is {MAX_SOURCE:,}: {_REMEDY}"
        )
    try:
        template: jinja2.Template = _environment().compiled(source)
    # Besides errors in the template: RecursionError, and Python's own limits of nesting.
    except Exception as error:
        raise ModelError(f"the model's chat template is broken ({_one_line(error)}): {_REMEDY}") from None
    return template


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
