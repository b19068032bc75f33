"""Read requests from JSON lines or Parquet: each has a prompt, messages or token ids, and optional sampling settings.

A file is read line by line, or in batches of rows, so that it may be larger than memory.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.config_file import sampling_with
from roseinfer.engine.prompt import Chat, Prompt, as_chat, check_template_options, clipped
from roseinfer.errors import UsageError
from roseinfer.workload.request_files import is_table, num_rows, request_files, table_rows
from roseinfer.workload.workload_request import WorkloadRequest

PROMPT_KEYS = ("prompt", "messages", "prompt_token_ids")
SAMPLING_KEYS = (*SamplingParams.__struct_fields__, "do_sample")

CHAT_KEYS = ("tools", "chat_template_kwargs")

_SYNONYMS = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
"""Names of settings in OpenAI's request files, with the names that this engine uses."""

_UNUSED: dict[str, tuple[Any, ...]] = {"stream": (False,), "response_format": ({"type": "text"},)}
"""Keys of OpenAI's request files, with the values that say what happens anyway. Other values are refused."""

_LABELS = ("model", "user", "metadata")
"""Keys of OpenAI's request files that change no answer: the model is that of --model."""

ROW_KEYS = (*PROMPT_KEYS, *CHAT_KEYS, *SAMPLING_KEYS, *_SYNONYMS, "top_logprobs", "tool_choice")
"""Keys of a request in a table that may have columns of other meanings."""

_URLS = ("/v1/chat/completions", "/v1/completions")

MAX_LINE_BYTES = 16 << 20
"""Maximum bytes of one line. A request of 128,000 tokens has about 0.6 MB."""
_MAX_QUOTED = 60
"""Maximum characters of an invalid value that an error message quotes."""

_decode = msgspec.json.Decoder().decode


def count_requests(name: str) -> int | None:
    """Return the number of requests in some files, valid or not; None for stdin and pipes, which are read once.

    `name` is as in `read_requests`. Raises UsageError for files without requests.
    """
    files = request_files(name)
    if any(file == "-" or Path(file).is_fifo() or Path(file).is_char_device() for file in files):
        return None
    count = sum(num_rows(file) if is_table(file) else _count_lines(file) for file in files)
    if count == 0:
        raise UsageError(f'{name} has no requests: write one per line, such as {{"prompt": "Hello"}}')
    return count


def read_requests(name: str, base: SamplingParams, *, keep_wrong: bool = False) -> Iterator[WorkloadRequest]:
    """Yield the requests of a file, of several files (see `request_files`), or of standard input (`-`).

    `base` has the sampling settings for keys that a line does not set. Blank lines are skipped. A request without an id
    has its line number as id, or its row number in a Parquet file; the numbers of several files continue each other.
    Raises UsageError for an invalid line, naming its number and key. With `keep_wrong`, an invalid line yields a
    request whose `refusal` is the error message, and reading continues.
    """
    places: dict[str | int, str] = {}  # request id -> line
    number = 0
    for file in request_files(name):
        kind = "row" if is_table(file) else "line"
        for at, record in enumerate(_records(file), start=1):
            number += 1
            if record is None:
                continue
            where = f"{kind} {at}" if file == name or name == "-" else f"{file} {kind} {at}"
            try:
                fields = _fields(record) if isinstance(record, bytes) else record
                request = request_of(fields, number, base)
                if request.id in places:
                    raise UsageError(f"id {request.id!r} is already used in {places[request.id]}: give another id")
            except UsageError as error:
                refusal = f"{'stdin' if file == '-' else file} {kind} {at}: {error}"
                if not keep_wrong:
                    raise UsageError(refusal) from None
                yield WorkloadRequest(id=_id_of(record, number), prompt="", params=base, refusal=refusal)
                continue
            places[request.id] = where
            yield request


def request_of(fields: Mapping[str, Any], number: int, base: SamplingParams) -> WorkloadRequest:
    """Return the request of a JSON object, or of a row of a table.

    `number` is its id unless it has one; `base` has the settings that it leaves open. Raises UsageError for fields that
    are no request.
    """
    request_id = fields.get("custom_id" if "body" in fields else "id", number)
    if not _is_id(request_id):
        raise UsageError(f"invalid id {clipped(request_id, _MAX_QUOTED)}: give a string or an integer")
    fields = _settings(_body(fields) if "body" in fields else fields)
    known = ("id", *PROMPT_KEYS, *CHAT_KEYS, *SAMPLING_KEYS)
    if unknown := [key for key in fields if key not in known]:
        raise UsageError(f"unknown key {unknown[0]}; known keys: {', '.join(known)}")
    given = [key for key in PROMPT_KEYS if key in fields]
    if len(given) != 1:
        raise UsageError(f"{' and '.join(given) or 'no prompt'}: give one of {', '.join(PROMPT_KEYS)}")
    overrides = {key: value for key, value in fields.items() if key in SAMPLING_KEYS}
    params = sampling_with(base, overrides) if overrides else base
    return WorkloadRequest(id=request_id, prompt=_prompt(given[0], fields), params=params)


def _records(file: str) -> Iterator[bytes | dict[str, Any] | None]:
    """Yield the lines of a file, or the rows of a table; None for a blank line."""
    if is_table(file):
        yield from table_rows(file)
        return
    with _opened(file) as opened:
        for line in _lines(opened):
            yield line if line.strip() else None


def _count_lines(file: str) -> int:
    with _opened(file) as opened:
        return sum(1 for line in _lines(opened) if line.strip())


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. Of a line above the limit, yield its first bytes alone, one more than the limit."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


def _fields(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise UsageError(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB: shorten the prompt")
    try:
        fields = _decode(line)
    except RecursionError:
        raise UsageError('the line is nested too deeply: write a request such as {"prompt": "Hello"}') from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError('the line is not a JSON object: write a request such as {"prompt": "Hello"}')
    return fields


def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request in a line of OpenAI's batch API: {"custom_id", "method", "url", "body"}."""
    if unknown := fields.keys() - {"custom_id", "method", "url", "body"}:
        raise UsageError(f"unknown key {min(unknown)} beside body; known keys: custom_id, method, url, body")
    if fields.get("method", "POST") != "POST" or fields.get("url", _URLS[0]) not in _URLS:
        where = f"{fields.get('method', 'POST')} {fields.get('url', '')}"
        raise UsageError(f"a request to {where} is not supported: give POST and {' or '.join(_URLS)}")
    body = fields["body"]
    if not isinstance(body, dict):
        raise UsageError(f"invalid body {clipped(body, _MAX_QUOTED)}: write the request as an object")
    return body


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with the names and types of this engine in place of OpenAI's."""
    fields = {key: value for key, value in fields.items() if key not in _LABELS}
    for key, allowed in _UNUSED.items():
        if key in fields and fields.pop(key) not in allowed:
            raise UsageError(
                f"{key} with another value than {msgspec.json.encode(allowed[0]).decode()} is not supported"
            )
    for theirs, ours in _SYNONYMS.items():
        if theirs in fields:
            if ours in fields:
                raise UsageError(f"{theirs} and {ours}: give one of them")
            fields[ours] = fields.pop(theirs)
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if fields.get("stop", ()) is None:
        del fields["stop"]
    top = fields.pop("top_logprobs", None)
    if isinstance(fields.get("logprobs"), bool):
        fields["logprobs"] = (top or 0) if fields["logprobs"] else None
    elif top is not None:
        raise UsageError("top_logprobs needs logprobs: true")
    choice = fields.pop("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise UsageError(f"tool_choice {clipped(choice, _MAX_QUOTED)} is not supported: give auto or none")
    if choice == "none":
        fields.pop("tools", None)
    return fields


def _id_of(record: bytes | dict[str, Any], number: int) -> str | int:
    """Return the id for the answer to an invalid line: its `id` if that can be read, else the line number."""
    try:
        fields = _decode(record) if isinstance(record, bytes) else record
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return number
    request_id: Any = fields.get("custom_id", fields.get("id", number)) if isinstance(fields, dict) else number
    return request_id if _is_id(request_id) else number


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _prompt(key: str, fields: dict[str, Any]) -> Prompt:
    value = fields[key]
    chat_keys = [name for name in CHAT_KEYS if name in fields]
    if key != "messages" and chat_keys:
        raise UsageError(f"{chat_keys[0]} is for a chat: give messages in place of {key}")
    if key == "prompt":
        if isinstance(value, str):
            return value
        raise UsageError(f"invalid prompt {clipped(value, _MAX_QUOTED)}: give a string")
    if not isinstance(value, list) or not value:
        raise UsageError(f"invalid {key} {clipped(value, _MAX_QUOTED)}: give a non-empty list")
    if key == "prompt_token_ids":
        if not all(type(token_id) is int for token_id in value):
            raise UsageError("invalid prompt_token_ids: give integers only")
        return value
    tools, options = fields.get("tools") or (), fields.get("chat_template_kwargs") or {}
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
        raise UsageError(f"invalid tools {clipped(tools, _MAX_QUOTED)}: give a list of objects")
    check_template_options(options, "chat_template_kwargs")
    return as_chat(Chat(messages=value, tools=tools, template_options=options))


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
