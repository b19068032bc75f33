"""Read requests from JSON lines: each has a prompt, messages or token ids, and optional sampling settings.

A file is read line by line, so that it may be larger than memory.
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
"""Key names of other engines' request files, with the name that this engine uses."""

_MAX_QUOTED = 60
"""Maximum characters of an invalid value that an error message quotes."""

_decode = msgspec.json.Decoder().decode


def count_requests(name: str, base: SamplingParams) -> int | None:
    """Return the number of requests in a file, checking every line; None for stdin and pipes, which are read once.

    Raises UsageError for the first invalid line, naming its number and key, and for a file without requests.
    """
    if name == "-" or Path(name).is_fifo() or Path(name).is_char_device():
        return None
    count = sum(1 for _ in read_requests(name, base))
    if count == 0:
        raise UsageError(f'{name} has no requests: write one per line, such as {{"prompt": "Hello"}}')
    return count


def read_requests(name: str, base: SamplingParams, *, keep_wrong: bool = False) -> Iterator[WorkloadRequest]:
    """Yield the requests of a file, or of standard input (`-`).

    `base` has the sampling settings for keys that a line does not set. Blank lines are skipped. Raises UsageError for
    an invalid line, naming its number and key. With `keep_wrong`, an invalid line yields a request whose `refusal` is
    the error message, and reading continues.
    """
    lines: dict[str | int, int] = {}  # request id -> line number
    with _opened(name) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{'stdin' if name == '-' else name} line {number}"
            try:
                request = _request(line, number, base)
                if request.id in lines:
                    raise UsageError(f"id {request.id!r} is already used in line {lines[request.id]}: give another id")
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
        raise UsageError('the line is not a JSON object: write a request such as {"prompt": "Hello"}')
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
        raise UsageError(f"invalid id {_quoted(request_id)}: give a string or an integer")
    overrides = {key: value for key, value in fields.items() if key in SAMPLING_KEYS}
    params = sampling_with(base, overrides) if overrides else base
    return WorkloadRequest(id=request_id, prompt=_prompt(given[0], fields[given[0]]), params=params)


def _id_of(line: bytes, number: int) -> str | int:
    """Return the id for the answer to an invalid line: its `id` if that can be read, else the line number."""
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
        raise UsageError(f"invalid prompt {_quoted(value)}: give a string")
    if not isinstance(value, list) or not value:
        raise UsageError(f"invalid {key} {_quoted(value)}: give a non-empty list")
    if key == "messages" and not all(is_message(turn) for turn in value):
        raise UsageError("invalid messages: give each a role and a content, both strings")
    if key == "prompt_token_ids" and not all(type(token_id) is int for token_id in value):
        raise UsageError("invalid prompt_token_ids: give integers only")
    prompt: Prompt = value
    return prompt


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
