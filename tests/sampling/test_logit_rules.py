"""Penalties, biases, bans and log-probabilities are what their definitions say, token by token, in NumPy.

Unlike tests that compare one run with another, these say which number is right: a changed sign or formula fails here.
"""

import math
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import EOS, VOCAB_SIZE

from roseinfer import Engine, EngineConfig, SamplingParams, build_engine
from roseinfer.sampling.logprobs import logprobs
from roseinfer.sampling.penalties import History, LogitChanges

pytestmark = pytest.mark.usefixtures("single_threaded")

CPU = torch.device("cpu")
Logits = NDArray[np.float64]


def changed(
    logits: Logits, params: SamplingParams, prompt: Set[int], completion: Sequence[int], banned: Set[int]
) -> Logits:
    """Return the logits after the rules, one token at a time.

    - The repetition penalty (Keskar et al., 2019) is for tokens of prompt and completion: it divides a positive logit
      and multiplies a negative one, so that a penalty above 1 always makes the token less likely.
    - Presence and frequency penalties (as in OpenAI's API) are for tokens of the completion only: the first is
      subtracted once, the second once per occurrence.
    """
    result = logits.copy()
    for token_id in range(len(logits)):
        occurrences = list(completion).count(token_id)
        if token_id in prompt or occurrences:
            factor = params.repetition_penalty
            result[token_id] = result[token_id] / factor if result[token_id] > 0 else result[token_id] * factor
        result[token_id] -= params.presence_penalty if occurrences else 0
        result[token_id] -= params.frequency_penalty * occurrences
        result[token_id] += params.logit_bias.get(token_id, 0)
        if token_id in banned:
            result[token_id] = -math.inf
    return result


SIZE = 6
tokens = st.integers(0, SIZE - 1)


@given(
    rows=st.lists(
        st.tuples(
            st.builds(
                SamplingParams,
                repetition_penalty=st.sampled_from([1.0, 0.5, 1.25, 3.0]),
                presence_penalty=st.sampled_from([0.0, -2.0, 0.75]),
                frequency_penalty=st.sampled_from([0.0, -1.5, 0.5]),
                logit_bias=st.dictionaries(tokens, st.sampled_from([-8.0, 2.5, 100.0]), max_size=3),
            ),
            st.frozensets(tokens),
            st.lists(tokens, max_size=8),
            st.frozensets(tokens, max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=100, deadline=None)
def test_every_row_has_its_own_rules(
    rows: list[tuple[SamplingParams, frozenset[int], list[int], frozenset[int]]], seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(size=(len(rows), SIZE)) * 3
    histories = [History(prompt, Counter(completion), banned) for _, prompt, completion, banned in rows]
    changes = LogitChanges.build([params for params, *_ in rows], histories, CPU)
    expected = np.stack([changed(row, *rule) for row, rule in zip(logits, rows, strict=True)])
    before = torch.from_numpy(logits.copy())
    found = before if changes is None else changes.apply(before)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert np.array_equal(before.numpy(), logits), "the model's logits are needed for log-probabilities"


def test_the_rules_by_hand() -> None:
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5, logit_bias={0: 1.0, 4: -3.0}
    )
    history = History(frozenset({1, 2}), Counter({2: 3, 3: 1}), frozenset({5}))
    changes = LogitChanges.build([params], [history], CPU)
    assert changes is not None
    (found,) = changes.apply(torch.tensor([[4.0, 4.0, 4.0, -4.0, 4.0, 4.0]])).tolist()
    #        bias   prompt  both: 4/2 - 0.25 - 3*0.5  completion: -4*2 - 0.25 - 0.5   bias  banned
    assert found == [5.0, 2.0, 0.25, -8.75, 1.0, -math.inf]


def test_half_precision_is_widened_before_it_is_changed() -> None:
    changes = LogitChanges.build(
        [SamplingParams(logit_bias={0: 0.001})], [History(frozenset(), Counter(), frozenset())], CPU
    )
    assert changes is not None
    found = changes.apply(torch.tensor([[64.0]], dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(64.001)


def test_log_probabilities_are_those_of_the_softmax_and_fall() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 9)) * 4
    drawn = [5, 0, 8, 2]
    found = logprobs(torch.from_numpy(logits), torch.tensor(drawn), [2, None, 0, 20])
    for row, token_id, count, one in zip(logits, drawn, (2, None, 0, 20), found, strict=True):
        if count is None:
            assert one is None
            continue
        assert one is not None
        expected = row - math.log(sum(math.exp(value) for value in row))
        own, top = one
        assert own == pytest.approx(expected[token_id])
        order = sorted(range(9), key=lambda index: -expected[index])[:count]
        assert [index for index, _ in top] == order
        assert [value for _, value in top] == pytest.approx(expected[order])


PROMPT = list(b"a tale of two")
STOPS = tuple(range(0, 250, 3))

RULES: dict[str, dict[str, Any]] = {
    "no rule": {},
    "repetition": {"repetition_penalty": 1.5},
    "repetition below 1": {"repetition_penalty": 0.6},
    "presence": {"presence_penalty": 1.5},
    "negative presence": {"presence_penalty": -1.5},
    "frequency": {"frequency_penalty": 0.7},
    "negative frequency": {"frequency_penalty": -0.4},
    "bias": {"logit_bias": {7: 6.0, 9: 5.9, 11: -100.0}},
    "all": {
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "logit_bias": {7: 7.0, 97: 6.0, 32: -4.0},
    },
    "no stop before 5 tokens": {"min_new_tokens": 5, "stop_token_ids": STOPS},
    "no end of text before 3 tokens": {"min_new_tokens": 3, "logit_bias": {EOS: 1e3}, "stop_on_eos": True},
}


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", block_size=4))


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    """The same model in transformers, whose logits know no rules."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float64).eval()


@pytest.mark.parametrize("name", RULES)
def test_a_completion_follows_the_rules_at_every_token(name: str, engine: Engine, model: Any) -> None:
    params = SamplingParams(**{"max_new_tokens": 14, "stop_on_eos": False, "logprobs": 3, **RULES[name]})
    stops = set(params.stop_token_ids) | ({EOS} if params.stop_on_eos else set())
    completion: list[int] = []
    rows: list[tuple[float, list[int]]] = []
    while len(completion) < params.max_new_tokens and not stops & set(completion):
        with torch.inference_mode():
            logits = model(torch.tensor([PROMPT + completion])).logits[0, -1].numpy()
        banned = stops if len(completion) < params.min_new_tokens else set()
        drawn = int(changed(logits, params, set(PROMPT), completion, banned).argmax())
        rows.append((logits[drawn] - np.log(np.exp(logits).sum()), np.argsort(-logits)[:3].tolist()))
        completion.append(drawn)

    (output,) = engine.generate([PROMPT], params)
    assert output.token_ids == completion
    assert output.logprobs is not None
    for one, (own, best) in zip(output.logprobs, rows, strict=True):
        assert one.logprob == pytest.approx(own)
        assert [token_id for token_id, _ in one.top] == best
    assert output.finish_reason == ("stop" if stops & set(completion) else "length")
    if params.min_new_tokens:
        assert len(completion) > params.min_new_tokens
        assert output.finish_reason == "stop"
    assert all(token_id < VOCAB_SIZE for token_id in completion)


def test_the_rules_change_what_is_drawn(engine: Engine) -> None:
    """Otherwise the test above would pass without them."""
    params = {name: SamplingParams(max_new_tokens=14, **{"stop_on_eos": False, **more}) for name, more in RULES.items()}
    drawn = {name: engine.generate([PROMPT], one)[0].token_ids for name, one in params.items()}
    assert [name for name in RULES if drawn[name] == drawn["no rule"]] == ["no rule"]
