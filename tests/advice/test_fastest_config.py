"""The configuration that --try writes is read back as the same run."""

import tomllib
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.advice.fastest_config import as_toml, write_fastest_config
from roseinfer.config import EngineConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.config_file import load_config


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4), st.floats(0, 5), st.booleans())
def test_a_written_configuration_is_read_as_it_was(prompts: list[str], temperature: float, overlap: bool) -> None:
    config = RunConfig(
        engine=EngineConfig(model='a "b" \\ c', overlap=overlap, cuda_graphs=False, max_itl_ms=12.5),
        sampling=SamplingParams(temperature=temperature, logit_bias={5: 1.5, 7: -2.0}, stop_token_ids=(3, 4)),
        workload=WorkloadConfig(mode="offline", prompts=tuple(prompts), num_requests=3),
    )
    assert msgspec.convert(tomllib.loads(as_toml(config)), RunConfig, str_keys=True) == config


def test_the_file_is_a_config_file(tmp_path: Path) -> None:
    config = RunConfig(engine=EngineConfig(attention="gather"))
    path = write_fastest_config(tmp_path, config, "a comment")
    assert path.read_text().startswith("# a comment\n")
    assert load_config(str(path)) == config
