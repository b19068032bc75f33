"""Chat templates and special tokens, as the files of a Hugging Face directory spell them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roseinfer.text.chat_template import DEFAULT
from roseinfer.weights.json_file import read_optional_json

_TEMPLATE_FILE = "chat_template.jinja"
_FOLDER = "additional_chat_templates"
_PROCESSOR_FILE = "chat_template.json"


def template_sources(folder: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the sources of a model's chat templates by name; empty if the model has none.

    `options` is the content of tokenizer_config.json. The default template is that of chat_template.jinja, or else of
    tokenizer_config.json, or else of chat_template.json, where processors of images and text save it. Templates by
    other names are in tokenizer_config.json, as a list, or in the folder additional_chat_templates.
    """
    named: dict[str, str] = {}
    for template in (read_optional_json(folder / _PROCESSOR_FILE).get("chat_template"), options.get("chat_template")):
        named |= _by_name(template)
    if (folder / _TEMPLATE_FILE).is_file():
        named[DEFAULT] = _text(folder / _TEMPLATE_FILE)
    return named | {path.stem: _text(path) for path in sorted((folder / _FOLDER).glob("*.jinja"))}


def spelled_token(token: Any) -> str:
    """Return the text of a token in tokenizer_config.json: a text, an object with `content`, or null (empty)."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _by_name(template: Any) -> dict[str, str]:
    """Return the templates of a config entry, which is a text, a list of objects, an object, or null."""
    if isinstance(template, str):
        return {DEFAULT: template}
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
    if not isinstance(template, Mapping):
        return {}
    return {name: text for name, text in template.items() if isinstance(name, str) and isinstance(text, str)}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")
