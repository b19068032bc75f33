"""The forms in which a prompt is given to the engine."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import msgspec

from roseinfer.errors import UsageError

Message: TypeAlias = Mapping[str, Any]
"""One turn of a chat: role and content, and what else the model's template reads, such as tool calls."""


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A chat with more than messages: tools that the model may call, and variables of its template."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    """Descriptions of functions in OpenAI's form: {"type": "function", "function": {"name", ...}}."""
    template_options: Mapping[str, Any] = {}
    """Further variables of the template, such as {"enable_thinking": False}."""


Prompt: TypeAlias = str | Sequence[int] | Sequence[Message] | Chat
"""Plain text, token ids, or a chat to be rendered by the model's template."""


class ChatTokens(list[int]):
    """Token ids of a rendered chat. The answer is a text of its own, and does not continue that of the prompt."""


def is_chat(prompt: Prompt) -> TypeGuard[Sequence[Message] | Chat]:
    """True if a prompt is a chat, whether or not its messages are valid."""
    if isinstance(prompt, Chat):
        return True
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)


def as_chat(prompt: Sequence[Message] | Chat) -> Chat:
    """Return a chat with valid messages, whose contents are text. Raises UsageError for an invalid message."""
    chat = prompt if isinstance(prompt, Chat) else Chat(messages=prompt)
    return msgspec.structs.replace(chat, messages=[_checked(turn) for turn in chat.messages])


def check_template_options(options: object, name: str) -> None:
    """Raise UsageError unless `options` can be variables of a chat template. `name` is what the user calls them."""
    if not isinstance(options, Mapping):
        raise UsageError(f'invalid {name} {clipped(options)}: give an object, such as {{"enable_thinking": false}}')
    if reserved := sorted({"messages", "tools"} & options.keys()):
        raise UsageError(f"{name} cannot set {reserved[0]}: give it as the request's own")


def _checked(turn: object) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise UsageError("invalid messages: give each a role and a content, both strings")
    content = turn.get("content")
    if isinstance(content, str) or (content is None and turn.get("tool_calls")):
        return turn
    if not isinstance(content, Sequence) or not content:
        raise UsageError(f"invalid content {clipped(content)} of a message: give a string, or a list of text parts")
    return {**turn, "content": "\n".join(_text_of(part) for part in content)}


def _text_of(part: object) -> str:
    """Return the text of one part of a content, in OpenAI's form: {"type": "text", "text": ...}."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    kind = part.get("type") if isinstance(part, Mapping) else part
    raise UsageError(f"a content part of type {clipped(kind)} is not supported: give parts of type 'text'")


def clipped(value: object, most: int = 40) -> str:
    """Return a value as text of at most `most` characters, for a message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
