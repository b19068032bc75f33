"""The public API: the examples of its documentation page run, and its other promises hold."""

import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

import roseinfer
from roseinfer import Engine, EngineConfig, Prompt, SamplingParams, UsageError, build_engine

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64"))


def test_the_examples_run_in_the_pages_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").symlink_to(PAGE.parents[1] / "tests")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert "Paris" in shown
    assert "0 abort" in shown
    assert "9 % busy; idle for Python: " in shown
    assert "no clear change" in shown
    assert "shorten the prompt" in shown


def test_importing_the_package_loads_no_torch_and_neither_do_configurations() -> None:
    program = (
        "import sys, roseinfer\n"
        "assert [name for name in sys.modules if name.startswith('roseinfer.')] == ['roseinfer.version']\n"
        "roseinfer.EngineConfig(), roseinfer.SamplingParams(), roseinfer.UsageError\n"
        "assert 'torch' not in sys.modules\n"
        "assert roseinfer.build_engine and 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", roseinfer.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(roseinfer, name) is not None
    assert name in dir(roseinfer)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Enjine"):
        _ = roseinfer.Enjine


EQUAL_PROMPTS: list[Prompt] = ["abc", (97 - 33, 98 - 33, 99 - 33), np.array([64, 65, 66])]


@pytest.mark.parametrize("prompt", EQUAL_PROMPTS, ids=["text", "tuple", "array"])
def test_one_prompt_is_told_from_several(prompt: Prompt, engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=4, stop_on_eos=False)
    (expected,) = engine.generate("abc", params)
    assert [output.token_ids for output in engine.generate(prompt, params)] == [expected.token_ids]
    assert [output.token_ids for output in engine.generate([prompt, prompt], params)] == [expected.token_ids] * 2


def test_no_prompts_have_no_outputs(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert list(engine.stream([])) == []


def test_each_prompt_can_have_parameters_of_its_own(engine: Engine) -> None:
    params = [SamplingParams(max_new_tokens=length, stop_on_eos=False) for length in (3, 1)]
    assert [len(output.token_ids) for output in engine.generate(["a", "b"], params)] == [3, 1]
    with pytest.raises(UsageError, match="3 prompts, but 2 sampling parameters"):
        engine.generate(["a", "b", "c"], params)


def test_the_events_of_several_prompts_add_up_to_their_outputs(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=6, stop_on_eos=False, n=2, temperature=1.0, logprobs=1)
    prompts = ["one", "two"]
    outputs = engine.generate(prompts, params)
    events = sorted(engine.stream(prompts, params), key=lambda event: (event.request_id, event.sample_index))
    completions = [list(group) for _, group in groupby(events, key=lambda e: (e.request_id, e.sample_index))]
    assert len(completions) == len(outputs) == 4
    for completion, output in zip(completions, outputs, strict=True):
        assert "".join(event.text for event in completion) == output.text
        assert [event.token_id for event in completion] == output.token_ids
        assert [event.finish_reason for event in completion] == [None] * 5 + ["length"]


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        (["a", 3], "prompt"),
        ([1.5], "a list of token ids, or a list of chat messages"),
        ([[1, "a"]], "a list of token ids, or a list of chat messages"),
        ([{"role": "user"}], "no chat template"),
        ([300], "outside the model's vocabulary of 258"),
        ([-1], "outside"),
        ("x" * 200, "200 tokens"),
    ],
)
def test_what_can_never_run_is_refused_before_anything_does(prompt: Prompt, hint: str, engine: Engine) -> None:
    free = engine.pool.num_free
    for call in (engine.generate, engine.stream):
        with pytest.raises(UsageError, match=hint):
            call(prompt)
    assert engine.pool.num_free == free


def test_a_stream_closed_early_gives_its_blocks_back(engine: Engine) -> None:
    free = engine.pool.num_free
    events = engine.stream(["one", "two"], SamplingParams(max_new_tokens=50, stop_on_eos=False))
    next(events)
    assert engine.pool.num_free < free
    events.close()
    assert engine.pool.num_free == free
