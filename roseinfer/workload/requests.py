"""Which requests a workload sends."""

import sys
from pathlib import Path

from roseinfer.config import WorkloadConfig
from roseinfer.engine.core import EngineCore, Prompt
from roseinfer.errors import UsageError


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


def to_prompts(texts: list[str], engine: EngineCore, *, raw: bool) -> list[Prompt]:
    """Texts as the engine takes them: a user's turn for a chat model, unless `raw`."""
    if raw or engine.chat_template is None:
        return list(texts)
    return [[{"role": "user", "content": text}] for text in texts]


def _lines_of(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read prompts file {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"prompts file {name} is not UTF-8 text") from None
    return [line for line in text.splitlines() if line.strip()]
