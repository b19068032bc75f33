"""Requests as JSON lines: a prompt, messages or token ids each, with sampling settings of their own.

Lines are read as they are needed, so that a file may be larger than memory.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.config_file import sampling_with
from roseinfer.engine.loaded_model import Prompt, is_message
from roseinfer.errors import UsageError
from roseinfer.workload.workload_request import WorkloadRequest

PROMPT_KEYS = ("prompt", "messages", "prompt_token_ids")
SAMPLING_KEYS = (*SamplingParams.__struct_fields__, "do_sample")

_MEANT = dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_new_tokens")
"""What others' request files call our keys."""

_decode = msgspec.json.Decoder().decode


def count_requests(name: str, base: SamplingParams) -> int | None:
    """How many requests a file holds, after a look at every line; None for stdin and pipes, which are read once.

    Raises UsageError, naming line and key, for the first line that is no request, or when there is none.
    """
    if name == "-" or Path(name).is_fifo() or Path(name).is_char_device():
        return None
    count = sum(1 for _ in read_requests(name, base))
    if count == 0:
        raise UsageError(f'{name} has no requests: write one a line, such as {{"prompt": "Hello"}}')
    return count


def read_requests(name: str, base: SamplingParams, *, keep_wrong: bool = False) -> Iterator[WorkloadRequest]:
    """The requests of a file, or of standard input (`-`); `base` are the settings that a line does not bring.

    Blank lines are skipped. Raises UsageError, naming line and key, for a line that is no request; with `keep_wrong`,
    that is a request with a refusal, and reading goes on.
    """
    lines: dict[str | int, int] = {}  # by id
    with _opened(name) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{'stdin' if name == '-' else name} line {number}"
            try:
                request = _request(line, number, base)
                if request.id in lines:
                    raise UsageError(f"id {request.id!r} is that of line {lines[request.id]} too")
            except UsageError as error:
                refusal = f"{where}: {error}"
                if not keep_wrong:
                    raise UsageError(refusal) from None
                yield WorkloadRequest(id=_id_of(line, number), prompt="", params=base, refusal=refusal)
                continue
            lines[request.id] = number
            yield request


def _request(line: bytes, number: int, base: SamplingParams) -> WorkloadRequest:
    try:
        fields = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError('a request is an object, such as {"prompt": "Hello"}')
    known = ("id", *PROMPT_KEYS, *SAMPLING_KEYS)
    if unknown := [key for key in fields if key not in known]:
        meant = _MEANT.get(unknown[0])
        hint = f"write {meant}" if meant is not None else f"known keys: {', '.join(known)}"
        raise UsageError(f"unknown key {unknown[0]}; {hint}")
    given = [key for key in PROMPT_KEYS if key in fields]
    if len(given) != 1:
        raise UsageError(f"{' and '.join(given) or 'no prompt'}: give one of {', '.join(PROMPT_KEYS)}")
    request_id = fields.get("id", number)
    if not _is_id(request_id):
        raise UsageError("id: expected a text or an integer")
    overrides = {key: value for key, value in fields.items() if key in SAMPLING_KEYS}
    params = sampling_with(base, overrides) if overrides else base
    return WorkloadRequest(id=request_id, prompt=_prompt(given[0], fields[given[0]]), params=params)


def _id_of(line: bytes, number: int) -> str | int:
    """What the answer to a wrong line is called: as it says, where it can be read."""
    try:
        fields = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return number
    request_id: str | int = fields.get("id", number) if isinstance(fields, dict) else number
    return request_id if _is_id(request_id) else number


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _prompt(key: str, value: Any) -> Prompt:
    if key == "prompt":
        if isinstance(value, str):
            return value
        raise UsageError("prompt: expected a text")
    if not isinstance(value, list) or not value:
        raise UsageError(f"{key}: expected a list that is not empty")
    if key == "messages" and not all(is_message(turn) for turn in value):
        raise UsageError("messages: each needs a role and a content that are text")
    if key == "prompt_token_ids" and not all(type(token_id) is int for token_id in value):
        raise UsageError("prompt_token_ids: expected integers")
    prompt: Prompt = value
    return prompt


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
