"""`generate --input` and `--output`: ordered requests and answers as JSON lines, and --resume after an interrupt."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, command, roseinfer, succeeds, without_progress

from roseinfer import Engine, EngineConfig, SamplingParams, UsageError, build_engine
from roseinfer.cli.generate.answer_stream import answers
from roseinfer.workload.answer import prompt_digest
from roseinfer.workload.request_lines import MAX_LINE_BYTES, count_requests, read_requests
from roseinfer.workload.workload_request import WorkloadRequest

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "one", "id": "first"},
    {"prompt_token_ids": [1, 2, 3], "max_new_tokens": 3},
    {"prompt": "two three", "temperature": 0, "stop_on_eos": True},
    {"prompt": "four", "id": 77, "n": 3, "logprobs": 2, "max_new_tokens": 5},
    {"prompt": "five", "max_new_tokens": 0},
    {"prompt": "six", "do_sample": False, "seed": 5},
]
IDS = ["first", 2, 3, 77, 77, 77, 5, 6]
UNTIMED = ("id", "sample_index", "n", "text", "token_ids", "finish_reason", "prompt_tokens", "logprobs")


def lines(requests: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(request) + "\n" for request in requests)


def rows(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines into rows without times."""
    return [{key: row[key] for key in UNTIMED if key in row} for row in map(json.loads, text.splitlines())]


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", seed=3))


@pytest.fixture
def tiny(tiny_llama: Path) -> list[object]:
    """Options for sampling on the tiny model, in float64 so that the tokens do not depend on the batch."""
    model = ["--model", tiny_llama, "--dtype", "float64", "--max-batch-size", 2]
    return [*model, "--seed", 3, "--temperature", 1, "--max-new-tokens", 8, "--no-stop-on-eos"]


@pytest.fixture(scope="module")
def expected(engine: Engine) -> list[dict[str, Any]]:
    """The expected rows, from the engine's own `generate`."""
    base = {"temperature": 1.0, "max_new_tokens": 8, "stop_on_eos": False}
    prompts, params = [], []
    for request in REQUESTS:
        settings = {**base, **{key: value for key, value in request.items() if key not in ("id", "do_sample")}}
        settings = {key: value for key, value in settings.items() if not key.startswith("prompt")}
        params.append(SamplingParams(**(settings | ({"temperature": 0.0} if "do_sample" in request else {}))))
        prompts.append(request.get("prompt", request.get("prompt_token_ids")))
    found = []
    for request_id, output in zip(IDS, engine.generate(prompts, params), strict=True):
        row = {
            "id": request_id,
            "sample_index": output.sample_index,
            "n": params[output.request_id].n,
            "text": output.text,
            "token_ids": output.token_ids,
            "finish_reason": output.finish_reason,
            "prompt_tokens": len(output.prompt_token_ids),
        }
        if output.logprobs is not None:
            row["logprobs"] = [
                {"logprob": each.logprob, "top": [list(pair) for pair in each.top]} for each in output.logprobs
            ]
        found.append(row)
    return found


def close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that rows are equal, log-probabilities up to rounding."""
    without = [[{k: v for k, v in row.items() if k != "logprobs"} for row in side] for side in (found, expected)]
    assert without[0] == without[1]
    for row, other in zip(found, expected, strict=True):
        assert ("logprobs" in row) == ("logprobs" in other)
        for left, right in zip(row.get("logprobs", ()), other.get("logprobs", ()), strict=True):
            assert left["logprob"] == pytest.approx(right["logprob"])
            assert [pair[0] for pair in left["top"]] == [pair[0] for pair in right["top"]]


def test_answers_come_in_input_order_with_each_lines_own_settings(
    tiny: list[object], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(REQUESTS))
    done = succeeds("generate", "--input", file, *tiny)
    close(rows(done.stdout), expected)
    assert "completion tokens" in done.stderr
    timed = [row for row in map(json.loads, done.stdout.splitlines()) if row["token_ids"]]
    assert all(0 < row["ttft_ms"] <= row["e2e_ms"] for row in timed)


def test_stdin_holds_requests_and_blank_lines_count_as_lines(tiny: list[object]) -> None:
    done = succeeds("generate", "--input", "-", *tiny, stdin='{"prompt": "one"}\n\n  \n{"prompt": "two"}')
    assert [row["id"] for row in rows(done.stdout)] == [1, 4]


def test_a_resumed_file_is_that_of_one_run_wherever_it_was_cut(
    tiny: list[object], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(REQUESTS))
    call = ["generate", "--input", source, "--output", target, "--resume", *tiny]
    assert succeeds(*call).stdout == ""
    whole = target.read_bytes()
    close(rows(whole.decode()), expected)
    starts = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    # Cuts: within the first line, after it, twice among the three completions of one request, before the last byte.
    for cut in (10, starts[1], starts[4], starts[5] + 7, len(whole) - 1):
        target.write_bytes(whole[:cut])
        succeeds(*call)
        assert target.read_bytes().startswith(whole[: max(start for start in starts[:4] if start <= cut)])
        close(rows(target.read_text()), expected)
    before = target.read_bytes()
    done = succeeds(*call)
    assert target.read_bytes() == before
    assert "0 prompt + 0 completion tokens" in done.stderr


def test_prompts_of_the_command_line_can_be_written_as_lines(tiny: list[object], tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    done = succeeds("generate", "one", "two", *tiny, "--output", target, "--json")
    assert [row["id"] for row in rows(target.read_text())] == [1, 2]
    document = json.loads(done.stdout)
    assert (document["output"], document["statistics"]["completion_tokens"]) == (str(target), 16)
    assert "outputs" not in document


def test_a_refused_request_has_its_error_as_answer_and_the_others_run(tiny: list[object], tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines([{"prompt": "one"}, {"prompt": "x" * 200}, {"prompt": "three"}]))
    done = roseinfer("generate", "--input", source, "--output", target, *tiny, "--quiet")
    assert done.returncode == 1
    assert done.stderr == f"error: 1 of 3 requests were refused: see the errors in {target}\n"
    first, refused, third = map(json.loads, target.read_text().splitlines())
    assert (len(first["token_ids"]), len(third["token_ids"])) == (8, 8)
    assert refused["id"] == 2
    assert "200 tokens" in refused["error"]
    # The refusal is in the file, so the request is not tried again.
    assert succeeds("generate", "--input", source, "--output", target, *tiny, "--resume").returncode == 0


def test_wrong_lines_on_stdin_have_their_errors_as_answers_and_the_others_run(
    tiny: list[object], tmp_path: Path
) -> None:
    stdin = '{"prompt": "one"}\n{"prompt": \n{"prompt": "three", "id": "c"}\n{"prompt": "four", "id": "c"}\n'
    stdin += '{"prompt": "five", "id": "e", "max_token": 3}\n{"prompt": "six", "id": []}\n[]\n{"prompt": "eight"}'
    done = roseinfer("generate", "--input", "-", *tiny, "--quiet", stdin=stdin)
    assert done.returncode == 1
    assert done.stderr == "error: 5 of 8 requests were refused: see the errors in stdout\n"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in found] == [1, 2, "c", "c", "e", 6, 7, 8]
    errors = {place: row["error"] for place, row in enumerate(found, start=1) if "error" in row}
    assert list(errors) == [2, 4, 5, 6, 7]
    assert all(error.startswith(f"stdin line {place}: ") for place, error in errors.items())
    assert "not valid JSON" in errors[2]
    assert "already used in line 3" in errors[4]
    assert "unknown key max_token" in errors[5]
    target = tmp_path / "out.jsonl"
    target.write_bytes(done.stdout.encode())
    assert succeeds("generate", "--input", "-", "--output", target, "--resume", *tiny, stdin=stdin).returncode == 0
    assert target.read_text() == done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once_like_stdin(tiny: list[object], tmp_path: Path) -> None:
    pipe = tmp_path / "requests"
    os.mkfifo(pipe)
    content = b'{"prompt": "one"}\n{"prompt": \n{"prompt": "three"}\n'
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    done = roseinfer("generate", "--input", pipe, *tiny)
    assert done.returncode == 1
    assert ["error" in json.loads(line) for line in done.stdout.splitlines()] == [False, True, False]
    assert f"{pipe} line 2: not valid JSON" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(tiny: list[object]) -> None:
    done = roseinfer("generate", "one", *tiny, "--output", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to /dev/full: No space left on device; --resume continues later\n"


def test_sigterm_leaves_whole_lines_and_says_how_to_go_on(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines([{"prompt": f"number {number}"} for number in range(200)]))
    model = ["--model", "gpt2", "--load-format", "dummy", "--max-new-tokens", 8, "--max-batch-size", 2]
    process = subprocess.Popen(
        command("generate", "--input", source, "--output", target, *model),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not target.exists() or target.read_bytes().count(b"\n") < 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 143
    assert stdout == b""
    text = target.read_text()
    assert text.endswith("\n")
    found = rows(text)
    assert [row["id"] for row in found] == list(range(1, len(found) + 1))
    assert 2 <= len(found) < 200
    note, last = without_progress(stderr.decode()).splitlines()
    assert f"{len(found)} answers: --resume continues" in note
    assert last == "error: ended by SIGTERM"


def test_a_prompt_that_changed_under_its_id_is_refused_when_resuming(engine: Engine) -> None:
    def request(number: int, prompt: str) -> WorkloadRequest:
        return WorkloadRequest(id=number, prompt=prompt, params=SamplingParams(max_new_tokens=2))

    requests = [request(1, "a"), request(2, "b"), request(3, "c"), request(4, "d")]
    done = {1: prompt_digest(requests[0]), 2: None, 3: prompt_digest(request(3, "another"))}
    stream = answers(engine.scheduler("online"), requests, lambda prompt: prompt, as_they_fit=True, done=done)
    with pytest.raises(UsageError, match="request 3 has another prompt than the one that the file answers"):
        list(stream)
    done[3] = prompt_digest(requests[2])
    stream = answers(engine.scheduler("online"), requests, lambda prompt: prompt, as_they_fit=True, done=done)
    assert [answer.request.id for answer in stream] == [4]


def test_no_more_requests_are_read_than_the_scheduler_has_room_for(engine: Engine) -> None:
    read = 0

    def requests() -> Iterator[WorkloadRequest]:
        nonlocal read
        for place in range(300):
            read += 1
            yield WorkloadRequest(id=place, prompt="ab", params=SamplingParams(max_new_tokens=1 + place % 5))

    found = []
    for answer in answers(engine.scheduler("online"), requests(), lambda prompt: prompt, as_they_fit=True):
        found.append(answer.request.id)
        assert read - len(found) < 64 * engine.limits.max_batch_size
        if len(found) == 1:
            assert read <= 4 * engine.limits.max_batch_size
    assert found == list(range(300))


def test_a_consumer_that_leaves_early_leaves_no_block_behind(engine: Engine) -> None:
    requests = [WorkloadRequest(id=place, prompt="ab", params=SamplingParams(max_new_tokens=20)) for place in range(20)]
    free = engine.pool.num_free
    stream = answers(engine.scheduler("online"), requests, lambda prompt: prompt, as_they_fit=True)
    next(stream)
    stream.close()
    assert engine.pool.num_free == free


BAD_LINES = {
    "an unknown key": ('{"prompt": "a", "temprature": 1}', ["unknown key temprature", "temperature"]),
    "two names of a setting": (
        '{"prompt": "a", "max_tokens": 1, "max_new_tokens": 1}',
        ["max_tokens and max_new_tokens: give one"],
    ),
    "an image": (
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        ["content part of type 'image_url' is not supported"],
    ),
    "no content": ('{"messages": [{"role": "user", "content": null}]}', ["invalid content None of a message"]),
    "tools without a chat": ('{"prompt": "a", "tools": []}', ["tools is for a chat: give messages in place of prompt"]),
    "tools of another type": ('{"messages": [{"role": "user", "content": "a"}], "tools": ["f"]}', ["invalid tools"]),
    "options of another type": (
        '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": 1}',
        ["invalid chat_template_kwargs 1"],
    ),
    "options that are the request's": (
        '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"tools": []}}',
        ["chat_template_kwargs cannot set tools"],
    ),
    "a forced tool": ('{"prompt": "a", "tool_choice": "required"}', ["tool_choice 'required' is not supported"]),
    "a stream": ('{"prompt": "a", "stream": true}', ["stream with another value than false is not supported"]),
    "another API": (
        '{"custom_id": "a", "url": "/v1/embeddings", "body": {}}',
        ["POST /v1/embeddings is not supported"],
    ),
    "a key beside the body": ('{"custom_id": "a", "seed": 1, "body": {}}', ["unknown key seed beside body"]),
    "a body that is no object": ('{"custom_id": "a", "body": []}', ["invalid body []"]),
    "no JSON": ("{prompt}", ["not valid JSON"]),
    "no UTF-8": (b'{"prompt": "caf\xe9"}', ["not valid JSON"]),
    "no object": ('["a"]', ["object"]),
    "no prompt": ('{"id": 1}', ["no prompt", "prompt_token_ids"]),
    "two prompts": ('{"prompt": "a", "messages": []}', ["prompt and messages"]),
    "a prompt that is a number": ('{"prompt": 3}', ["invalid prompt 3: give a string"]),
    "messages without a role": ('{"messages": [{"content": "a"}]}', ["messages", "role"]),
    "no messages": ('{"messages": []}', ["messages", "non-empty"]),
    "ids that are words": ('{"prompt_token_ids": ["a"]}', ["prompt_token_ids", "integers"]),
    "an id that is a list": ('{"prompt": "a", "id": []}', ["invalid id []"]),
    "an id twice": ('{"prompt": "a", "id": "same"}', ["'same'", "line 1"]),
    "a wrong type": ('{"prompt": "a", "top_k": "many"}', ["invalid top_k 'many'", "integer"]),
    "a wrong value": ('{"prompt": "a", "top_p": 0}', ["invalid top_p 0"]),
    "sampling at temperature 0": ('{"prompt": "a", "do_sample": true, "temperature": 0}', ["temperature 0"]),
    "completions of nothing": ('{"prompt": "a", "n": 0}', ["invalid n 0"]),
    "too many completions": ('{"prompt": "a", "n": 1000000}', ["invalid n 1000000", "at most 1024"]),
    "too many alternatives": ('{"prompt": "a", "logprobs": 99999}', ["invalid logprobs 99999", "at most 1024"]),
    "too many stop strings": (
        json.dumps({"prompt": "a", "stop": ["x"] * 257}),
        ["invalid stop", "a list of at most 256"],
    ),
    "a long stop string": (
        json.dumps({"prompt": "a", "stop": ["x" * 1025]}),
        ["invalid stop", "a text of at most 1024"],
    ),
    "too many stop tokens": (
        json.dumps({"prompt": "a", "stop_token_ids": [1] * 1025}),
        ["invalid stop_token_ids", "a list of at most 1024"],
    ),
    "too many biases": (
        json.dumps({"prompt": "a", "logit_bias": {str(place): 1 for place in range(1025)}}),
        ["invalid logit_bias", "at most 1024"],
    ),
    "deep nesting": ('{"prompt": ' + "[" * 10_000 + "]" * 10_000 + "}", ["nested too deeply"]),
    "a long line": (b'{"prompt": "' + b"a" * MAX_LINE_BYTES + b'"}', ["longer than 16 MiB"]),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_wrong_line_is_named_with_its_key(case: str, tmp_path: Path) -> None:
    line, hints = BAD_LINES[case]
    source = tmp_path / "in.jsonl"
    content = line if isinstance(line, bytes) else line.encode()
    source.write_bytes(b'{"prompt": "b", "id": "same"}\n' + content + b"\n")
    with pytest.raises(UsageError) as raised:
        list(read_requests(str(source), SamplingParams()))
    assert str(raised.value).startswith(f"{source} line 2: ")
    for hint in hints:
        assert hint in str(raised.value)


def test_the_other_requests_run_when_lines_are_wrong(tiny_llama: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    deep = b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"
    long = b'{"prompt": "' + b"a" * MAX_LINE_BYTES * 2 + b'"}\n'
    wrong = [b'{"prompt": "a", "topk": 1, "id": "x"}\n', deep, long, b"\xff\n", b'{"prompt": "a", "n": 1000000}\n']
    right = b'{"prompt": "ab", "max_new_tokens": 2, "stop_on_eos": false}\n'
    source.write_bytes(right + b"".join(line + right for line in wrong))
    assert count_requests(str(source)) == 11
    done = roseinfer("generate", "--input", source, "--output", target, "--model", tiny_llama)
    assert done.returncode == 1
    assert "5 of 11 requests were refused" in done.stderr
    answered = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in answered] == [1, "x", 3, 4, 5, 6, 7, 8, 9, 10, 11]
    errors = [row["error"] for row in answered if "error" in row]
    assert len({tuple(row["token_ids"]) for row in answered if "error" not in row}) == 1
    for error, (number, reason) in zip(
        errors,
        [(2, "unknown key topk"), (4, "nested"), (6, "longer than"), (8, "not valid JSON"), (10, "at most 1024")],
        strict=True,
    ):
        assert error.startswith(f"{source} line {number}: ")
        assert reason in error


def test_text_far_longer_than_the_context_is_not_tokenized(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.tokenizer is not None
    monkeypatch.setattr(type(engine.tokenizer), "encode", None)
    with pytest.raises(UsageError, match="has 40,000 characters, far more than the context of 128 tokens"):
        engine.encode("a" * 40_000)


WRONG_CALLS = {
    "prompts and --input": (["hi", "--input", "{input}"], "choose one"),
    "--input and --num-requests": (["--input", "{input}", "--num-requests", "3"], "--num-requests"),
    "--resume without a file": (["hi", "--resume"], "--output"),
    "--resume of stdout": (["hi", "--resume", "--output", "-"], "--output"),
    "two things on stdout": (["hi", "--json", "--output", "-"], "choose one"),
    "an output file with answers": (["hi", "--output", "{input}"], "--resume"),
    "resuming what is no answers": (["hi", "--output", "{input}", "--resume"], "line 1 is no answer"),
    "an output that cannot be": (["hi", "--output", "{tmp}/none/out.jsonl"], "cannot write"),
    "a missing input": (["--input", "{tmp}/none.jsonl"], "none.jsonl"),
    "an empty input": (["--input", "{empty}"], "no requests"),
    "JSON lines as a prompts file": (["--prompts-file", "{input}"], "--input"),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_a_wrong_call_says_what_to_do(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    arguments, hint = WRONG_CALLS[case]
    places = {"input": tmp_path / "in.jsonl", "empty": tmp_path / "empty.jsonl", "tmp": tmp_path}
    places["input"].write_text('{"prompt": "a"}\n')
    places["empty"].write_text("\n")
    call = [argument.format(**places) for argument in arguments]
    done = roseinfer("generate", *call, "--model", tiny_llama)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert hint in done.stderr
    assert places["input"].read_text() == '{"prompt": "a"}\n'
