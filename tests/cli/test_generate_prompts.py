"""`generate` with control tokens in raw prompts, tools, and variables of the chat template."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import copied_with

from roseinfer import Chat, EngineConfig, SamplingParams, UsageError, build_engine
from roseinfer.cli.app import run
from roseinfer.engine.engine import Engine

TEMPLATE = (
    "<s>{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if thinking is false %}!{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]
BOS, EOS = 256, 257

Generate = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def chatty(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_with(tiny_llama, tmp_path_factory.mktemp("chatty") / "model", {"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def engine(chatty: Path) -> Engine:
    return build_engine(EngineConfig(model=str(chatty), device="cpu"))


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Generate:
    """A function that runs `generate --json` in this process; returns exit code, document and stderr."""

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        words = ["roseinfer", "generate", *arguments, "--json", "--device", "cpu", "--max-new-tokens", 1, "--quiet"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = run()
        captured = capsys.readouterr()
        return code, json.loads(captured.out or "{}"), captured.err

    return call


def prompt_tokens(document: dict[str, Any]) -> int:
    (row,) = document["outputs"]
    length: int = row["prompt_tokens"]
    return length


class TestParseSpecial:
    def test_a_raw_prompt_may_hold_control_tokens(self, generate: Generate, tiny_llama: Path) -> None:
        for options, length in ((["--parse-special"], 4), ([], 9)):
            code, document, _ = generate("<s>ab</s>", "--model", tiny_llama, *options)
            assert (code, prompt_tokens(document)) == (0, length)

    def test_a_model_with_a_template_needs_raw(self, generate: Generate, chatty: Path) -> None:
        code, _, stderr = generate("<s>ab", "--model", chatty, "--parse-special")
        assert code == 2
        assert "add --raw" in stderr
        code, document, _ = generate("<s>ab", "--model", chatty, "--parse-special", "--raw")
        assert (code, prompt_tokens(document)) == (0, 3)

    def test_the_python_api_encodes_alike(self, engine: Engine) -> None:
        assert engine.encode("<s>ab</s>", parse_special=True) == [BOS, *engine.encode("ab"), EOS]


class TestTemplateOptions:
    def test_an_option_sets_variables_of_the_template(self, generate: Generate, chatty: Path) -> None:
        _, document, _ = generate("Hello", "--model", chatty)
        assert prompt_tokens(document) == 6
        _, document, _ = generate("Hello", "--model", chatty, "--chat-template-kwargs", '{"thinking": false}')
        assert prompt_tokens(document) == 7

    def test_a_request_wins_over_the_option(self, generate: Generate, chatty: Path, tmp_path: Path) -> None:
        line = {"messages": HELLO, "chat_template_kwargs": {"thinking": True}}
        (tmp_path / "in.jsonl").write_text(json.dumps(line))
        options = ["--chat-template-kwargs", '{"thinking": false}']
        generate("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--model", chatty, *options)
        assert json.loads((tmp_path / "out.jsonl").read_text())["prompt_tokens"] == 6

    @pytest.mark.parametrize(
        ("value", "named"),
        [
            ("{", "invalid --chat-template-kwargs '{': not valid JSON"),
            ("[1]", "invalid --chat-template-kwargs [1]: give an object"),
            ('{"messages": []}', "--chat-template-kwargs cannot set messages"),
        ],
    )
    def test_a_wrong_value_is_a_wrong_call(self, value: str, named: str, generate: Generate, chatty: Path) -> None:
        code, _, stderr = generate("Hello", "--model", chatty, "--chat-template-kwargs", value)
        assert code == 2
        assert named in stderr

    def test_without_a_template_it_is_refused(self, generate: Generate, tiny_llama: Path, chatty: Path) -> None:
        options = ["--chat-template-kwargs", '{"thinking": false}']
        code, _, stderr = generate("Hello", "--model", tiny_llama, *options)
        assert code == 2
        assert "has no chat template: drop --chat-template-kwargs" in stderr
        code, _, stderr = generate("Hello", "--model", chatty, "--raw", *options)
        assert code == 2
        assert "--raw" in stderr


def test_tools_and_options_of_a_chat_reach_the_template(engine: Engine) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    chat = Chat(messages=HELLO, tools=[tool], template_options={"thinking": False})
    assert engine.tokenizer is not None
    assert engine.tokenizer.decode(engine.encode(chat)) == "[add]Hello!"
    params = SamplingParams(max_new_tokens=2)
    single, (listed,) = engine.generate(chat, params), engine.generate([chat], params)
    assert single[0].token_ids == listed.token_ids


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}], [{"role": "user", "content": 1}], [{"content": "a"}], [*HELLO, "text"]]
)
def test_a_message_that_is_none_is_refused(messages: list[Any], engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"message"):
        engine.encode(messages)
