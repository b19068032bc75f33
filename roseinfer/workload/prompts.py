"""Read the prompts of a workload from options or a text file, and convert them for the engine."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from roseinfer.config import WorkloadConfig
from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.engine.prompt import Chat, Prompt, as_chat, is_chat
from roseinfer.errors import UsageError

_MAX_QUOTED = 40
"""Maximum characters of an invalid prompt that an error message quotes."""
_IDS = re.compile(r"ids:\s*\d+(\s*,\s*\d+)*\s*")


class PromptForm(msgspec.Struct, frozen=True, kw_only=True):
    """How the prompts of a call become prompts of the engine: options that apply to all of them."""

    raw: bool = False
    """Send prompts as they are, without the chat template."""
    system: str | None = None
    """System message for chats that have none."""
    parse_special: bool = False
    """Recognize control tokens that raw prompts spell out."""
    template_options: dict[str, Any] = {}
    """Variables of the chat template, below those of a request."""

    def check(self, engine: LoadedModel) -> None:
        """Raise UsageError if the model has no chat template for an option that needs one, or the reverse."""
        if self.system is not None and engine.chat_template is None:
            raise UsageError(
                f"{engine.model_name} has no chat template, so a system message cannot be sent: drop --system"
            )
        if self.template_options and engine.chat_template is None:
            raise UsageError(f"{engine.model_name} has no chat template: drop --chat-template-kwargs")
        if self.parse_special and not self.raw and engine.chat_template is not None:
            raise UsageError("--parse-special is for prompts without the chat template, which renders them: add --raw")

    def converted(self, prompt: Prompt, engine: LoadedModel) -> Prompt:
        """Convert a prompt to the form that the engine accepts, see `to_prompt`."""
        return to_prompt(
            prompt,
            engine,
            raw=self.raw,
            system=self.system,
            parse_special=self.parse_special,
            template_options=self.template_options,
        )


def read_prompts(workload: WorkloadConfig) -> list[str]:
    """Return the given prompts, or else the lines of the prompts file, repeated in order up to `num_requests`.

    Raises UsageError if there is no prompt, or if there are two sources.
    """
    if workload.prompts and workload.prompts_file is not None:
        raise UsageError(f"prompts and --prompts-file {workload.prompts_file} are both given: choose one")
    prompts = list(workload.prompts)
    if workload.prompts_file is not None:
        prompts = _lines_of(workload.prompts_file)
        if not prompts:
            raise UsageError(f"--prompts-file {workload.prompts_file} has no prompts: write one per line")
    if not prompts:
        raise UsageError("no prompt is given: give --prompt, --prompts-file, or a --config with prompts")
    count = workload.num_requests or len(prompts)
    return [prompts[index % len(prompts)] for index in range(count)]


def to_prompts(texts: list[str], engine: LoadedModel, *, raw: bool) -> list[Prompt]:
    """Parse texts with `parse_prompt`, then convert them for the engine with `to_prompt`."""
    return [to_prompt(parse_prompt(text), engine, raw=raw) for text in texts]


def parse_prompt(text: str) -> Prompt:
    """Parse a prompt from the command line or a prompts file: `ids:1,2,3` is token ids, anything else is text.

    Raises UsageError if a prompt begins with `ids:` and does not continue with token ids.
    """
    if not text.startswith("ids:"):
        return text
    if not _IDS.fullmatch(text):
        shortened = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
        raise UsageError(f"invalid prompt {shortened!r}: give token ids like ids:1,2,3")
    return [int(token_id) for token_id in text.removeprefix("ids:").split(",")]


def to_prompt(
    prompt: Prompt,
    engine: LoadedModel,
    *,
    raw: bool = False,
    system: str | None = None,
    parse_special: bool = False,
    template_options: Mapping[str, Any] | None = None,
) -> Prompt:
    """Convert a prompt to the form that the engine accepts.

    For a model with a chat template, text becomes a message of the user, unless `raw` is true. `system` is the text
    of a system message put before the first message, unless that already is a system message. `parse_special` applies
    to text that stays text, see `LoadedModel.encode`. `template_options` are variables of the template; those of a
    `Chat` win over them.
    """
    if isinstance(prompt, str):
        if raw or engine.chat_template is None:
            return engine.encode(prompt, parse_special=True) if parse_special else prompt
        prompt = [{"role": "user", "content": prompt}]
    if not is_chat(prompt):
        return prompt
    chat = as_chat(prompt)
    messages = list(chat.messages)
    if system is not None and messages and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    options = {**(template_options or {}), **chat.template_options}
    return Chat(messages=messages, tools=chat.tools, template_options=options)


def shown(prompt: Prompt) -> str:
    """Return a prompt as a heading: its text, its token ids, or the last message of a chat."""
    if isinstance(prompt, str):
        return prompt
    if is_chat(prompt):
        messages = as_chat(prompt).messages
        return str(messages[-1].get("content") or "") if messages else ""
    return f"ids:{','.join(str(token_id) for token_id in cast(Sequence[int], prompt))}"


def _lines_of(name: str) -> list[str]:
    if name.endswith(".jsonl"):
        raise UsageError(f"--prompts-file {name} holds JSON lines, not plain prompts: use roseinfer generate --input")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read --prompts-file {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--prompts-file {name} is not UTF-8 text: convert it to UTF-8") from None
    return [line for line in text.splitlines() if line.strip()]
