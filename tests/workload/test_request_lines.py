"""Request files: lines of this engine's own form and of OpenAI's batch API."""

import json
from pathlib import Path
from typing import Any

import pytest

from roseinfer.config import SamplingParams
from roseinfer.engine.prompt import Chat
from roseinfer.errors import UsageError
from roseinfer.workload.request_lines import read_requests
from roseinfer.workload.workload_request import WorkloadRequest

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def request(path: Path, **fields: Any) -> WorkloadRequest:
    path.write_text(json.dumps(fields) + "\n")
    (only,) = read_requests(str(path), SamplingParams())
    return only


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"max_tokens": 5}, SamplingParams(max_new_tokens=5)),
        ({"max_completion_tokens": 5}, SamplingParams(max_new_tokens=5)),
        ({"stop": "end"}, SamplingParams(stop=("end",))),
        ({"stop": ["a", "b"]}, SamplingParams(stop=("a", "b"))),
        ({"stop": None}, SamplingParams()),
        ({"logprobs": True, "top_logprobs": 3}, SamplingParams(logprobs=3)),
        ({"logprobs": True}, SamplingParams(logprobs=0)),
        ({"logprobs": False}, SamplingParams()),
        ({"logit_bias": {"7": -1}}, SamplingParams(logit_bias={7: -1.0})),
        ({"model": "gpt-4o", "user": "me", "stream": False, "tool_choice": "auto"}, SamplingParams()),
        (
            {"response_format": {"type": "text"}, "top_p": 0.9, "presence_penalty": 1},
            SamplingParams(top_p=0.9, presence_penalty=1.0),
        ),
    ],
)
def test_settings_may_have_openais_names(path: Path, fields: dict[str, Any], params: SamplingParams) -> None:
    assert request(path, prompt="Hi", **fields).params == params


def test_a_line_of_openais_batch_api_is_its_body(path: Path) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 9, "tools": [TOOL]}
    found = request(path, custom_id="request-1", method="POST", url="/v1/chat/completions", body=body)
    assert found == WorkloadRequest(
        id="request-1", prompt=Chat(messages=HELLO, tools=[TOOL]), params=SamplingParams(max_new_tokens=9)
    )


def test_text_parts_become_one_text_and_other_fields_of_a_message_stay(path: Path) -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    prompt = request(path, messages=[{"role": "user", "content": parts}, call]).prompt
    assert prompt == Chat(messages=[{"role": "user", "content": "Hello\nthere"}, call])


def test_tools_and_template_options_belong_to_a_chat(path: Path) -> None:
    options = {"enable_thinking": False}
    prompt = request(path, messages=HELLO, tools=[TOOL], chat_template_kwargs=options).prompt
    assert prompt == Chat(messages=HELLO, tools=[TOOL], template_options=options)
    assert request(path, messages=HELLO, tools=[TOOL], tool_choice="none").prompt == Chat(messages=HELLO)


def test_an_invalid_line_is_named_by_its_number(path: Path) -> None:
    path.write_text('{"prompt": "a"}\n\n{"prompt": 3}\n')
    with pytest.raises(UsageError, match=r"requests\.jsonl line 3: "):
        list(read_requests(str(path), SamplingParams()))
