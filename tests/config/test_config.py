"""One TOML file and the flags over it become one RunConfig; everything else is an error that names the key."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from roseinfer.config import EngineConfig, RunConfig, SamplingParams
from roseinfer.config_file import load_config, shipped_configs
from roseinfer.errors import UsageError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return str(path)

    return write


def test_without_a_file_everything_has_its_default() -> None:
    assert load_config() == RunConfig()
    assert load_config().engine == EngineConfig()


def test_a_file_sets_what_it_names_and_flags_win_over_it(write: Any) -> None:
    path = write('[engine]\nmodel = "gpt2"\nblock_size = 8\n[workload]\nprompts = ["a", "b"]\n')
    config = load_config(path, {"engine": {"block_size": 4}, "profile": {"active": 7}})
    assert (config.engine.model, config.engine.block_size) == ("gpt2", 4)
    assert config.workload.prompts == ("a", "b")
    assert config.profile.active == 7


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_run_is_valid(name: str) -> None:
    assert isinstance(load_config(name), RunConfig)


def test_the_origins_run_is_what_the_origin_ran() -> None:
    config = load_config("origin-gpt2")
    assert (config.engine.model, config.engine.load_format, config.engine.max_batch_size) == ("gpt2", "dummy", 8)
    assert (config.workload.prompts, config.workload.num_requests, config.workload.mode) == (("Hello",), 16, "online")
    sampling = config.sampling
    assert (sampling.max_new_tokens, sampling.top_k, sampling.top_p) == (16, 40, 0.9)
    assert (sampling.temperature, sampling.stop_on_eos) == (1.0, False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[engine]\nblock_sise = 1", r"engine\.block_sise; known keys: .*block_size"),
        ("[motor]\n", "unknown key motor; known keys: .*engine"),
        ("[engine]\nblock_size = 0", r"engine\.block_size: expected `int` >= 1"),
        ("[engine]\nblock_size = true", r"engine\.block_size: expected `int`, got `bool`"),
        ("[engine]\nblock_size = 1.5", r"engine\.block_size: expected `int`, got `float`"),
        ('[engine]\ndtype = "float8"', r"engine\.dtype: .*'float8'; one of auto, float32, bfloat16"),
        ("[sampling]\ntop_p = 1.5", r"sampling\.top_p: expected `float` <= 1"),
        ("[sampling]\ntop_p = 0.0", r"sampling\.top_p: expected `float` > 0"),
        ("[sampling]\ntemperature = nan", r"sampling\.temperature: expected `float` >= 0"),
        ("[sampling]\ntop_k = 9223372036854775808", r"sampling\.top_k: expected `int` <= 9223372036854775807"),
        ("[sampling]\ndo_sample = 1", r"sampling\.do_sample: expected true or false, got 1"),
        ("[workload]\nprompts = [1]", r"workload\.prompts\[.*\]: expected `str`, got `int`"),
        ("[workload]\nprompts = 'a'", r"workload\.prompts: expected `array`, got `str`"),
        ("engine = 3", r"engine: expected `object`, got `int`"),
        ("[engine", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(write: Any, text: str, named: str) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=named) as caught:
        load_config(path, {"engine": {"seed": 1}})
    assert "run.toml" in str(caught.value) or "do_sample" in text
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"engine": {"block_size": 0}}, r"engine\.block_size: expected"),
        ({"sampling": {"stop_token_ids": [-1]}}, r"sampling\.stop_token_ids\[0\]: expected"),
    ],
)
def test_a_flag_that_is_wrong_is_not_blamed_on_the_file(write: Any, flags: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}"):
        load_config(write(""), flags)


@pytest.mark.parametrize(
    ("file", "flags", "temperature"),
    [
        ({}, {"do_sample": True}, 1.0),
        ({}, {"do_sample": False}, 0.0),
        ({}, {"do_sample": True, "temperature": 0.3}, 0.3),
        ({"do_sample": True}, {}, 1.0),
        ({"temperature": 0.0}, {"do_sample": True}, 1.0),
        ({"temperature": 0.7}, {"do_sample": True}, 0.7),
        ({"temperature": 0.7}, {"do_sample": False}, 0.0),
        ({"do_sample": True}, {"temperature": 0.0}, 0.0),
        ({"do_sample": False}, {"temperature": 0.5}, 0.5),
    ],
)
def test_do_sample_is_another_word_for_a_temperature(
    write: Any, file: dict[str, Any], flags: dict[str, Any], temperature: float
) -> None:
    lines = [f"{key} = {str(value).lower()}" for key, value in file.items()]
    path = write("\n".join(["[sampling]", *lines]))
    assert load_config(path, {"sampling": flags}).sampling.temperature == temperature


@pytest.mark.parametrize("where", ["file", "flags"])
@pytest.mark.parametrize("values", [{"do_sample": True, "temperature": 0.0}, {"do_sample": False, "temperature": 1.0}])
def test_a_temperature_that_contradicts_do_sample_beside_it_is_refused(
    write: Any, where: str, values: dict[str, Any]
) -> None:
    text = "[sampling]\n" + "\n".join(f"{key} = {str(value).lower()}" for key, value in values.items())
    with pytest.raises(UsageError, match="temperature"):
        load_config(write(text if where == "file" else ""), {"sampling": values if where == "flags" else {}})


def test_a_prompts_file_by_flag_replaces_the_files_prompts_and_the_other_way_round(write: Any) -> None:
    replaced = load_config(write('[workload]\nprompts = ["a"]'), {"workload": {"prompts_file": "b.txt"}}).workload
    assert (replaced.prompts, replaced.prompts_file) == ((), "b.txt")
    replaced = load_config(write('[workload]\nprompts_file = "b.txt"'), {"workload": {"prompts": ["a"]}}).workload
    assert (replaced.prompts, replaced.prompts_file) == (("a",), None)


def test_a_name_is_a_shipped_run_and_a_path_is_a_file(tmp_path: Path) -> None:
    assert {"default", "origin-gpt2"} <= set(shipped_configs())
    with pytest.raises(UsageError, match=r"no config named 'fast'; shipped: .*default.*origin-gpt2"):
        load_config("fast")
    with pytest.raises(UsageError, match="does not exist"):
        load_config(str(tmp_path / "fast.toml"))


def test_a_configuration_survives_json() -> None:
    config = load_config("origin-gpt2")
    assert msgspec.json.decode(msgspec.json.encode(config), type=RunConfig) == config


def test_parameters_made_in_code_are_keyword_only_and_frozen() -> None:
    with pytest.raises(TypeError):
        SamplingParams(5)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 1.0  # type: ignore[misc]
