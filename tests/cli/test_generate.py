"""`roseinfer generate`: text on stdout, statistics on stderr."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import ENVIRONMENT, command, roseinfer, succeeds, without_progress
from native_builds import COMPILER

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.cpu import native_library

PROMPTS = ["one", "two three", "four"]


@pytest.fixture(scope="module")
def expected(tiny_llama: Path) -> dict[str, str]:
    """The engine's own completion of each prompt, eight tokens long."""
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32"))
    outputs = engine.generate(PROMPTS, SamplingParams(max_new_tokens=8))
    return {prompt: output.text for prompt, output in zip(PROMPTS, outputs, strict=True)}


@pytest.fixture
def tiny(tiny_llama: Path) -> list[object]:
    return ["--model", tiny_llama, "--dtype", "float32", "--max-new-tokens", 8]


def test_the_demo_model_names_three_planets() -> None:
    done = succeeds("generate", "Name three planets.", "--temperature", 0, "--max-new-tokens", 24, "--dtype", "float32")
    assert done.stdout == "1. Mars\n2. Venus\n3. Earth\n"
    assert done.stderr.startswith("[generate] 34 prompt + 12 completion tokens")
    assert len(done.stderr.splitlines()) == 1


def test_text_goes_to_stdout_and_statistics_to_stderr(tiny: list[object], expected: dict[str, str]) -> None:
    done = succeeds("generate", "one", *tiny)
    assert done.stdout == expected["one"] + "\n"
    assert done.stderr.startswith("[generate] 3 prompt + 8 completion tokens")


def test_quiet_leaves_only_the_text(tiny: list[object], expected: dict[str, str]) -> None:
    done = succeeds("generate", "one", *tiny, "--quiet")
    assert (done.stdout, done.stderr) == (expected["one"] + "\n", "")


def test_several_prompts_are_answered_in_their_order(tiny: list[object], expected: dict[str, str]) -> None:
    done = succeeds("generate", *PROMPTS, *tiny, "--max-batch-size", 2)
    assert done.stdout == "\n\n".join(f">>> {prompt}\n{expected[prompt]}" for prompt in PROMPTS) + "\n"


def test_stdin_is_one_prompt(tiny: list[object], expected: dict[str, str]) -> None:
    assert succeeds("generate", *tiny, stdin="two three\n").stdout == expected["two three"] + "\n"


def test_a_prompts_file_has_one_prompt_a_line(tiny: list[object], expected: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo three\n")
    done = succeeds("generate", "--prompts-file", file, *tiny, "--json")
    assert {row["prompt"]: row["text"] for row in json.loads(done.stdout)["outputs"]} == {
        prompt: expected[prompt] for prompt in ("one", "two three")
    }


def test_json_is_one_document_and_nothing_else_on_stdout(tiny: list[object], expected: dict[str, str]) -> None:
    document: dict[str, Any] = json.loads(succeeds("generate", *PROMPTS, *tiny, "--json").stdout)
    assert document["schema_version"] == 1
    assert [row["prompt"] for row in document["outputs"]] == PROMPTS
    for row in document["outputs"]:
        assert row["text"] == expected[row["prompt"]]
        assert row["prompt_tokens"] == len(row["prompt"])
        assert len(row["token_ids"]) == 8
        assert row["finish_reason"] == "length"
        assert row["ttft_ms"] > 0
    statistics = document["statistics"]
    assert (statistics["prompt_tokens"], statistics["completion_tokens"]) == (16, 24)
    assert statistics["elapsed_s"] > 0
    assert statistics["completion_tokens_per_s"] == pytest.approx(24 / statistics["elapsed_s"])


def test_no_new_tokens_make_an_empty_completion(tiny: list[object]) -> None:
    done = succeeds("generate", "one", *tiny, "--max-new-tokens", 0)
    assert done.stdout == "\n"
    assert "3 prompt + 0 completion tokens" in done.stderr


def test_the_same_seed_samples_the_same_text_in_every_mode(tiny: list[object]) -> None:
    sampled = ["generate", *PROMPTS, *tiny, "--dtype", "float64", "--do-sample", "--seed", 7, "--quiet"]
    texts = {mode: succeeds(*sampled, "--mode", mode).stdout for mode in ("naive", "offline", "online")}
    assert texts["naive"] == texts["offline"] == texts["online"]
    assert succeeds(*sampled, "--seed", 8).stdout != texts["online"]


def test_a_flag_wins_over_the_config_file(tiny: list[object], expected: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[sampling]\nmax_new_tokens = 3\ntemperature = 5.0\n[workload]\nprompts = ["two three"]\n')
    done = succeeds("generate", "--config", file, *tiny, "--no-do-sample", "--quiet")
    assert done.stdout == expected["two three"] + "\n"


def test_ctrl_c_ends_a_running_generation_with_130_and_one_line() -> None:
    endless = ["generate", "hi", "--model", "gpt2", "--load-format", "dummy", "--max-new-tokens", 1000]
    process = subprocess.Popen(
        command(*endless, "--no-stop-on-eos"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    process.stdout.read(1)  # waits for the first token
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert without_progress(stderr.decode()).splitlines() == ["error: interrupted"]


def test_a_reader_that_has_had_enough_ends_it_in_silence(tiny: list[object]) -> None:
    process = subprocess.Popen(
        command("generate", "one", *tiny, "--quiet"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert stderr == b""


@pytest.mark.skipif(COMPILER is None or not native_library.is_on_by_default(), reason="needs AVX2 and a C++ compiler")
def test_kernels_that_nobody_has_made_are_told_of_in_one_line(tiny: list[object], tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "CXX": "", "ROSEINFER_CACHE_DIR": str(tmp_path)}

    def told(*arguments: object) -> int:
        done = roseinfer("generate", "one", *tiny, "--device", "cpu", *arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stderr.count("are not compiled yet: --compile does it")

    assert told() == 1
    assert told("--no-compile") == told("--quiet") == told("--dtype", "float64") == 0
    assert told("--compile") == 0
    assert told() == 0, "made by now"
