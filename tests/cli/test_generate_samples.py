"""`generate` with several completions per prompt, log-probabilities, biases, system messages, ids and tokenizers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import roseinfer, succeeds
from tiny import copied_with

from roseinfer import Engine, EngineConfig, SamplingParams, build_engine

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}a:"
SETTINGS = ["--dtype", "float64", "--max-new-tokens", 8, "--no-stop-on-eos", "--quiet"]
PARAMS = SamplingParams(max_new_tokens=8, stop_on_eos=False)


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64"))


@pytest.fixture(scope="module")
def chatty(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    return copied_with(tiny_llama, tmp_path_factory.mktemp("chatty") / "model", {"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def textless(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without its tokenizer."""
    folder = tmp_path_factory.mktemp("textless") / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "tokenizer.json").unlink()
    return folder


def document(*arguments: object) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(succeeds("generate", *arguments, *SETTINGS, "--json").stdout)
    return parsed


def test_several_completions_have_a_heading_each(tiny_llama: Path, engine: Engine) -> None:
    sampling = ["--n", 2, "--do-sample", "--seed", 0]
    one, two = engine.generate("one", SamplingParams(max_new_tokens=8, stop_on_eos=False, n=2, temperature=1.0))
    done = succeeds("generate", "one", "--model", tiny_llama, *SETTINGS, *sampling)
    assert done.stdout == f"--- 1 of 2\n{one.text}\n\n--- 2 of 2\n{two.text}\n"
    done = succeeds("generate", "one", "one", "--model", tiny_llama, *SETTINGS, *sampling)
    assert done.stdout.startswith(f">>> one\n--- 1 of 2\n{one.text}\n\n--- 2 of 2\n{two.text}\n\n>>> one\n--- 1 of 2\n")


def test_rows_tell_the_completions_of_a_prompt_apart(tiny_llama: Path) -> None:
    rows = document("one", "two", "--model", tiny_llama, "--n", 2, "--do-sample")["outputs"]
    assert [(row["id"], row["prompt"], row["sample_index"], row["n"]) for row in rows] == [
        (1, "one", 0, 2),
        (1, "one", 1, 2),
        (2, "two", 0, 2),
        (2, "two", 1, 2),
    ]
    assert len({tuple(row["token_ids"]) for row in rows}) == 4


def test_log_probabilities_are_in_the_rows_and_refused_where_nothing_shows_them(tiny_llama: Path) -> None:
    (row,) = document("one", "--model", tiny_llama, "--logprobs", 2)["outputs"]
    assert len(row["logprobs"]) == len(row["token_ids"])
    for token_id, entry in zip(row["token_ids"], row["logprobs"], strict=True):
        assert [token_id, entry["logprob"]] == entry["top"][0]  # greedy, so the token is the likeliest
    done = roseinfer("generate", "one", "--model", tiny_llama, "--logprobs", 2)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json" in done.stderr


def test_a_bias_decides_which_tokens_come(tiny_llama: Path) -> None:
    row = document("one", "--model", tiny_llama, "--logit-bias", "65=1000", "--logit-bias", "66=-1000")["outputs"][0]
    assert row["token_ids"] == [65] * 8


@pytest.mark.parametrize("pair", ["65", "65=", "a=1", "65=nan", "65=inf", "999=1"])
def test_a_wrong_bias_is_refused(pair: str, tiny_llama: Path) -> None:
    done = roseinfer("generate", "one", "--model", tiny_llama, "--logit-bias", pair)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert pair.split("=")[0] in done.stderr


def test_a_system_message_comes_before_a_chats_first_turn(chatty: Path, tmp_path: Path) -> None:
    engine = build_engine(EngineConfig(model=str(chatty), dtype="float64"))
    own = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    added = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hi"}]
    expected = {output.text for output in engine.generate([own, added], PARAMS)}
    file = tmp_path / "in.jsonl"
    chats = ({"messages": own}, {"messages": own[1:]}, {"prompt": "hi"})
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    outputs = document("--input", file, "--model", chatty, "--system", "Be brief")["outputs"]
    assert [row["prompt_tokens"] for row in outputs] == [len("s:S\nu:hi\na:"), *[len("s:Be brief\nu:hi\na:")] * 2]
    assert [row["prompt"] for row in outputs] == ["hi"] * 3
    assert {row["text"] for row in outputs} == expected


def test_a_system_message_without_a_chat_is_refused(chatty: Path, tiny_llama: Path) -> None:
    for arguments, hint in ((["--model", chatty, "--raw"], "--raw"), (["--model", tiny_llama], "no chat template")):
        done = roseinfer("generate", "hi", *arguments, "--system", "Be brief")
        assert (done.returncode, done.stdout) == (2, "")
        assert hint in done.stderr


def test_a_prompt_may_be_token_ids(tiny_llama: Path, engine: Engine, tmp_path: Path) -> None:
    ids = "ids:" + ",".join(map(str, engine.encode("one")))
    expected = engine.generate("one", PARAMS)[0].text
    assert succeeds("generate", ids, "--model", tiny_llama, *SETTINGS).stdout == expected + "\n"
    file = tmp_path / "prompts.txt"
    file.write_text(ids.replace(",", ", ") + "\n")
    assert document("--prompts-file", file, "--model", tiny_llama)["outputs"][0]["text"] == expected


def test_a_model_without_a_tokenizer_takes_and_gives_ids(textless: Path, engine: Engine) -> None:
    expected = engine.generate([70, 71, 72], PARAMS)[0].token_ids
    done = succeeds("generate", "ids:70,71,72", "--model", textless, *SETTINGS)
    assert done.stdout == f"ids:{','.join(map(str, expected))}\n"
    (row,) = document("ids:70,71,72", "--model", textless)["outputs"]
    assert (row["text"], row["token_ids"], row["prompt"]) == (None, expected, "ids:70,71,72")


@pytest.mark.parametrize("arguments", [["hello"], ["ids:1,2", "--stop", "x"]])
def test_text_for_a_model_without_a_tokenizer_is_refused(arguments: list[str], textless: Path) -> None:
    done = roseinfer("generate", *arguments, "--model", textless)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--tokenizer" in done.stderr


def test_a_tokenizer_given_by_name_is_used(textless: Path, tiny_llama: Path, engine: Engine) -> None:
    tokenizer = ["--tokenizer", tiny_llama / "tokenizer.json"]
    done = succeeds("generate", "one", "--model", textless, *tokenizer, *SETTINGS)
    assert done.stdout == engine.generate("one", PARAMS)[0].text + "\n"
    shape = ["--model", "gpt2", "--load-format", "dummy", "--max-new-tokens", 1, "--quiet"]
    assert succeeds("generate", "one", *shape, *tokenizer).stdout != ""


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_llama: Path) -> None:
    done = roseinfer("generate", "one", "--model", tiny_llama, "--tokenizer", "gpt2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "50257 tokens" in done.stderr
    assert "only 258" in done.stderr
