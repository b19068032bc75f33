"""A TOML file and command-line options become one RunConfig; anything invalid is an error that names the setting."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from roseinfer.cli.app import app
from roseinfer.config import EngineConfig, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.config_file import load_config, shipped_configs
from roseinfer.config_messages import option_name
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


def test_a_file_sets_what_it_names_and_options_win_over_it(write: Any) -> None:
    path = write('[engine]\nmodel = "gpt2"\nblock_size = 8\n[workload]\nprompts = ["a", "b"]\n')
    config = load_config(path, {"engine": {"block_size": 4}, "profile": {"active": 7}})
    assert (config.engine.model, config.engine.block_size) == ("gpt2", 4)
    assert config.workload.prompts == ("a", "b")
    assert config.profile.active == 7


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_valid(name: str) -> None:
    assert isinstance(load_config(name), RunConfig)


def test_the_tutorial_engines_run_is_what_that_engine_ran() -> None:
    config = load_config("tutorial-gpt2")
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
        ("[engine]\nblock_size = 0", r"invalid engine\.block_size 0: give an integer of at least 1$"),
        ("[engine]\nblock_size = true", r"invalid engine\.block_size true: give an integer of at least 1$"),
        ("[engine]\nblock_size = 1.5", r"invalid engine\.block_size 1\.5: give an integer of at least 1$"),
        ('[engine]\ndtype = "float8"', r"invalid engine\.dtype 'float8': give one of auto, float32, bfloat16"),
        ("[sampling]\ntop_p = 1.5", r"invalid sampling\.top_p 1\.5: give a number above 0 and at most 1$"),
        ("[sampling]\ntop_p = 0.0", r"invalid sampling\.top_p 0\.0: give a number above 0 and at most 1$"),
        ("[sampling]\ntemperature = nan", r"invalid sampling\.temperature nan: give a number of at least 0$"),
        (
            "[sampling]\ntop_k = 9223372036854775808",
            r"invalid sampling\.top_k 9223372036854775808: .* and at most 9223372036854775807$",
        ),
        ("[sampling]\ndo_sample = 1", r"invalid sampling\.do_sample 1: give true or false$"),
        ("[workload]\nprompts = [1]", r"invalid workload\.prompts\[0\] 1: give a text$"),
        ("[workload]\nprompts = 'a'", r"invalid workload\.prompts 'a': give a list, each item a text$"),
        ("engine = 3", r"invalid engine 3: write a table, \[engine\]$"),
        ("[engine", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(write: Any, text: str, named: str) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=named) as caught:
        load_config(path, {"engine": {"seed": 1}})
    assert "run.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"engine": {"block_size": 0}}, "invalid --block-size 0: give an integer of at least 1"),
        ({"sampling": {"stop_token_ids": [3, -1]}}, "invalid --stop-token-id -1: give an integer of at least 0"),
        ({"workload": {"seed": -1}}, "invalid --workload-seed -1: give an integer of at least 0"),
        ({"sampling": {"do_sample": True, "temperature": 0.0}}, "--do-sample contradicts --temperature 0,"),
        ({"sampling": {"do_sample": False, "temperature": 0.5}}, "--no-do-sample contradicts --temperature 0.5,"),
    ],
)
def test_a_wrong_option_is_named_as_typed_without_the_file(write: Any, flags: dict[str, Any], named: str) -> None:
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
def test_do_sample_sets_a_temperature(
    write: Any, file: dict[str, Any], flags: dict[str, Any], temperature: float
) -> None:
    lines = [f"{key} = {str(value).lower()}" for key, value in file.items()]
    path = write("\n".join(["[sampling]", *lines]))
    assert load_config(path, {"sampling": flags}).sampling.temperature == temperature


@pytest.mark.parametrize("where", ["file", "flags"])
@pytest.mark.parametrize("values", [{"do_sample": True, "temperature": 0.0}, {"do_sample": False, "temperature": 1.0}])
def test_a_temperature_that_contradicts_do_sample_is_refused(write: Any, where: str, values: dict[str, Any]) -> None:
    text = "[sampling]\n" + "\n".join(f"{key} = {str(value).lower()}" for key, value in values.items())
    with pytest.raises(UsageError, match="temperature"):
        load_config(write(text if where == "file" else ""), {"sampling": values if where == "flags" else {}})


def test_an_option_for_a_prompts_file_replaces_the_files_prompts_and_vice_versa(write: Any) -> None:
    replaced = load_config(write('[workload]\nprompts = ["a"]'), {"workload": {"prompts_file": "b.txt"}}).workload
    assert (replaced.prompts, replaced.prompts_file) == ((), "b.txt")
    replaced = load_config(write('[workload]\nprompts_file = "b.txt"'), {"workload": {"prompts": ["a"]}}).workload
    assert (replaced.prompts, replaced.prompts_file) == (("a",), None)


def test_a_name_is_a_shipped_config_and_a_path_is_a_file(tmp_path: Path) -> None:
    assert {"default", "tutorial-gpt2"} <= set(shipped_configs())
    with pytest.raises(UsageError, match=r"no config named 'fast': .*default.*tutorial-gpt2"):
        load_config("fast")
    with pytest.raises(UsageError, match="does not exist"):
        load_config(str(tmp_path / "fast.toml"))


def test_a_former_name_is_accepted_and_not_listed() -> None:
    assert load_config("origin-gpt2") == load_config("tutorial-gpt2")
    assert "origin-gpt2" not in shipped_configs()


def test_messages_name_options_that_commands_have() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    options = {
        option for command in group.commands.values() for parameter in command.params for option in parameter.opts
    }
    tables = {table.name: table.type for table in msgspec.structs.fields(RunConfig)}
    names = {option_name(table, field.name) for table, kind in tables.items() for field in msgspec.structs.fields(kind)}
    assert names - options == set()


def test_a_configuration_survives_json() -> None:
    config = load_config("tutorial-gpt2")
    assert msgspec.json.decode(msgspec.json.encode(config), type=RunConfig) == config


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        (SamplingParams, {"temperature": -1}, "invalid temperature -1: give a number of at least 0"),
        (SamplingParams, {"temperature": math.nan}, "invalid temperature nan: give a number of at least 0"),
        (SamplingParams, {"top_p": 2}, "invalid top_p 2: give a number above 0 and at most 1"),
        (SamplingParams, {"n": 0}, "invalid n 0: give an integer of at least 1"),
        (SamplingParams, {"max_new_tokens": True}, "invalid max_new_tokens true: give an integer of at least 0"),
        (SamplingParams, {"stop": "colors"}, "invalid stop 'colors': give a list, each item a text"),
        (SamplingParams, {"stop": ["a", 3]}, "invalid stop[1] 3: give a text"),
        (
            SamplingParams,
            {"logit_bias": {1: math.nan}},
            "invalid logit_bias {1: nan}: give a table of token ids and finite numbers",
        ),
        (EngineConfig, {"quantize": "int3"}, "invalid quantize 'int3': give one of auto, none, int8, int4"),
        (EngineConfig, {"block_size": 0}, "invalid block_size 0: give an integer of at least 1"),
        (
            EngineConfig,
            {"dtype": "bf16"},
            "invalid dtype 'bf16': give one of auto, float32, bfloat16, float16, float64",
        ),
        (WorkloadConfig, {"mode": "fast"}, "invalid mode 'fast': give one of naive, offline, online"),
        (ProfileConfig, {"active": 0}, "invalid active 0: give an integer of at least 1"),
    ],
)
def test_a_table_made_in_code_is_refused_in_the_words_of_a_config_file(
    write: Any, table: type[msgspec.Struct], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        table(**values)
    assert str(caught.value) == message
    with pytest.raises(UsageError) as caught:
        msgspec.structs.replace(table(), **values)
    assert str(caught.value) == message
    name = {EngineConfig: "engine", SamplingParams: "sampling", WorkloadConfig: "workload", ProfileConfig: "profile"}
    with pytest.raises(UsageError) as caught:
        load_config(None, {name[table]: values})
    assert str(caught.value).rpartition(": ")[2] == message.rpartition(": ")[2]


def test_a_table_made_in_code_takes_paths_and_lists(tmp_path: Path) -> None:
    assert EngineConfig(model=tmp_path).model == str(tmp_path)  # type: ignore[arg-type]
    params = SamplingParams(stop=["a"], temperature=1, logit_bias={3: 1})  # type: ignore[arg-type]
    assert params.stop == ("a",)
    assert type(params.temperature) is float
    assert params.logit_bias == {3: 1.0}


def test_parameters_made_in_code_are_keyword_only_and_frozen() -> None:
    with pytest.raises(TypeError):
        SamplingParams(5)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 1.0  # type: ignore[misc]
