"""`generate` and the Python API sample as a model's generation_config.json says; options and configs win over it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import copied_with

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.cli.app import run
from roseinfer.cli.generate import generation
from roseinfer.engine.engine import Engine

RECOMMENDED = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}

Generate = Callable[..., tuple[int, str, SamplingParams | None]]


@pytest.fixture(scope="module")
def sampler(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a generation_config.json that samples."""
    recommended = {"generation_config.json": json.dumps(RECOMMENDED)}
    return copied_with(tiny_llama, tmp_path_factory.mktemp("sampler") / "model", recommended)


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sampler: Path) -> Generate:
    """A function that calls `generate` in this process; returns exit code, stderr, and the settings of the request."""
    used: list[SamplingParams] = []
    submit = generation.Engine.scheduler

    def recorded(engine: Engine, mode: str) -> object:
        scheduler = submit(engine, mode)  # type: ignore[arg-type] # a mode
        plain = scheduler.submit
        monkeypatch.setattr(scheduler, "submit", lambda prompt, params: used.append(params) or plain(prompt, params))
        return scheduler

    monkeypatch.setattr(generation.Engine, "scheduler", recorded)

    def call(*arguments: object, model: Path = sampler) -> tuple[int, str, SamplingParams | None]:
        used.clear()
        words = ["roseinfer", "generate", "hi", "--model", model, "--max-new-tokens", 2, "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = run()
        return code, capsys.readouterr().err, used[0] if used else None

    return call


def test_the_files_settings_apply_and_are_said_once(generate: Generate) -> None:
    code, stderr, params = generate()
    assert code == 0
    assert params == SamplingParams(max_new_tokens=2, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.1)
    note = "[generate] temperature 0.7, top k 20, top p 0.8, repetition penalty 1.1: from the model's"
    assert stderr.count(note) == 1


def test_options_win_over_a_config_and_that_over_the_file(generate: Generate, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[sampling]\ntop_k = 5\ntop_p = 0.5\n")
    _, stderr, params = generate("--config", tmp_path / "run.toml", "--top-p", 0.9, "--repetition-penalty", 1)
    assert params == SamplingParams(max_new_tokens=2, temperature=0.7, top_k=5, top_p=0.9)
    assert "[generate] temperature 0.7: from the model's" in stderr


def test_a_config_may_hold_filters_without_effect(generate: Generate, tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "run.toml").write_text("[sampling]\ntop_k = 5\n")
    code, _, params = generate("--config", tmp_path / "run.toml", model=tiny_llama)
    assert (code, params) == (0, SamplingParams(max_new_tokens=2, top_k=5))


def test_greedy_decoding_is_one_option_away(generate: Generate) -> None:
    for option in (["--temperature", 0], ["--no-do-sample"]):
        _, _, params = generate(*option)
        assert params is not None
        assert params.temperature == 0


def test_a_filter_has_an_effect_if_the_file_samples(generate: Generate, tiny_llama: Path) -> None:
    code, _, params = generate("--top-k", 3)
    assert (code, params and params.top_k) == (0, 3)
    code, stderr, _ = generate("--top-k", 3, model=tiny_llama)
    assert code == 2
    assert "--top-k does nothing at temperature 0" in stderr


def test_a_model_without_the_file_is_greedy_and_says_nothing(generate: Generate, tiny_llama: Path) -> None:
    _, stderr, params = generate(model=tiny_llama)
    assert params == SamplingParams(max_new_tokens=2)
    assert "generation_config" not in stderr


def test_the_python_api_has_the_same_defaults(sampler: Path) -> None:
    engine = build_engine(EngineConfig(model=str(sampler), device="cpu"))
    assert engine.default_params == SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.1)
    default, same, greedy = (
        engine.generate("hi", params)[0].token_ids for params in (None, engine.default_params, SamplingParams())
    )
    assert default == same != greedy
