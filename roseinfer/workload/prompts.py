"""Which requests a workload sends."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from roseinfer.config import WorkloadConfig
from roseinfer.engine.loaded_model import LoadedModel, Message, Prompt, is_message
from roseinfer.errors import UsageError

_SHOWN = 40
"""Characters of a wrong prompt that an error repeats."""
_IDS = re.compile(r"ids:\s*\d+(\s*,\s*\d+)*\s*")


def read_prompts(workload: WorkloadConfig) -> list[str]:
    """The prompts' texts: those given, else the lines of the prompts file, repeated up to `num_requests`.

    Raises UsageError when there are none.
    """
    if workload.prompts and workload.prompts_file is not None:
        raise UsageError("prompts and a prompts file were both given: choose one")
    prompts = list(workload.prompts)
    if workload.prompts_file is not None:
        prompts = _lines_of(workload.prompts_file)
        if not prompts:
            raise UsageError(f"prompts file {workload.prompts_file} has no prompts: write one a line")
    if not prompts:
        raise UsageError("there is no prompt: give --prompt, --prompts-file or a config with prompts")
    count = workload.num_requests or len(prompts)
    return [prompts[index % len(prompts)] for index in range(count)]


def to_prompts(texts: list[str], engine: LoadedModel, *, raw: bool) -> list[Prompt]:
    """Texts as the engine takes them: `ids:1,2,3` is token ids, any other a user's turn for a chat model."""
    return [to_prompt(parse_prompt(text), engine, raw=raw) for text in texts]


def parse_prompt(text: str) -> Prompt:
    """What a prompt on the command line or in a prompts file is: token ids where it reads `ids:1,2,3`, else text.

    Raises UsageError for one that begins like token ids and goes on as something else.
    """
    if not text.startswith("ids:"):
        return text
    if not _IDS.fullmatch(text):
        shortened = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise UsageError(f"prompt {shortened!r} is no list of token ids: write them like ids:1,2,3")
    return [int(token_id) for token_id in text.removeprefix("ids:").split(",")]


def to_prompt(prompt: Prompt, engine: LoadedModel, *, raw: bool = False, system: str | None = None) -> Prompt:
    """A prompt as the engine takes it: text becomes a user's turn for a chat model, unless `raw`.

    `system` is the message before the first, where a chat does not begin with its own.
    """
    messages: list[Message]
    if isinstance(prompt, str):
        if raw or engine.chat_template is None:
            return prompt
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = [turn for turn in prompt if is_message(turn)]
    if system is None or not messages or messages[0]["role"] == "system":
        return messages if isinstance(prompt, str) else prompt
    return [{"role": "system", "content": system}, *messages]


def shown(prompt: Prompt) -> str:
    """A prompt as a heading: its text, its ids, or the last message of a chat."""
    if isinstance(prompt, str):
        return prompt
    messages: Sequence[Message] = [turn for turn in prompt if is_message(turn)]
    return messages[-1]["content"] if messages else f"ids:{','.join(map(str, prompt))}"


def _lines_of(name: str) -> list[str]:
    if name.endswith(".jsonl"):
        raise UsageError(f"{name} holds JSON lines, not a prompt a line: roseinfer generate --input reads them")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read prompts file {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"prompts file {name} is not UTF-8 text") from None
    return [line for line in text.splitlines() if line.strip()]
