"""The public API: the examples of its documentation page run, and its other promises hold."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
        ([7, 258], "token id 258 is outside"),
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


def by_element(prompt: Sequence[Any], vocab_size: int) -> list[int]:
    """Return a prompt's token ids, converted and checked one by one."""
    try:
        token_ids = [index(token_id) for token_id in prompt]
    except TypeError:
        raise UsageError("invalid prompt: give a text, a list of token ids, or a list of chat messages") from None
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise UsageError(f"token id {token_id} is outside the model's vocabulary of {vocab_size}")
    return token_ids


def outcome(encode: Callable[[], list[int]]) -> tuple[list[int], list[type]] | str:
    try:
        token_ids = encode()
    except UsageError as error:
        return str(error)
    return token_ids, [type(token_id) for token_id in token_ids]


valid_ids = st.integers(0, 257)
strange_ids = st.one_of(
    valid_ids.map(np.int64),
    valid_ids.map(torch.tensor),
    st.sampled_from([-1, 258, 1 << 40, 1 << 70, True, 1.0, "1", None]),
)


@given(
    prompt=st.lists(valid_ids, min_size=1, max_size=40),
    strange=st.lists(st.tuples(st.integers(0, 40), strange_ids), max_size=2),
    form=st.sampled_from([list, tuple]),
)
def test_token_ids_are_checked_together_as_they_would_be_one_by_one(
    engine: Engine, prompt: list[Any], strange: list[tuple[int, Any]], form: Callable[[list[Any]], Sequence[Any]]
) -> None:
    for place, token_id in strange:
        prompt.insert(place, token_id)
    given_ids = form(prompt)
    assert outcome(lambda: engine.encode(given_ids)) == outcome(lambda: by_element(given_ids, 258))
    assert list(given_ids) == prompt


def test_a_prompt_that_its_caller_changes_later_stays_as_it_was_submitted(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=3, stop_on_eos=False)
    (expected,) = engine.generate([5, 6, 7], params)
    prompt, scheduler = [5, 6, 7], engine.scheduler("online")
    scheduler.submit(prompt, params)
    prompt[0] = 300
    (output,) = scheduler.run()
    assert (output.prompt_token_ids, output.token_ids) == (expected.prompt_token_ids, expected.token_ids)


def test_a_stream_closed_early_gives_its_blocks_back(engine: Engine) -> None:
    free = engine.pool.num_free
    events = engine.stream(["one", "two"], SamplingParams(max_new_tokens=50, stop_on_eos=False))
    next(events)
    assert engine.pool.num_free < free
    events.close()
    assert engine.pool.num_free == free
