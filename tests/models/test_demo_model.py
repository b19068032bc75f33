"""Tests that the demo model generates the same tokens as in transformers."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from native_builds import COMPILER, compiled_kernels_folder
from torch import Tensor

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.cpu import native_library
from roseinfer.weights.resolve import demo_gguf

PROMPTS = [
    "Hello",
    "The capital of France is",
    "1, 2, 3, 4,",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "Water boils at",
    "Die Hauptstadt von Deutschland ist",
    "The three primary colours are red,",
    "Q: Why is the sky blue?\nA:",
    "In 1969 the first humans walked on the moon. Their names were known all over the world, and the mission's",
    "A list of fruits: apple, banana,",
    "SELECT name FROM users WHERE",
    "La tour Eiffel se trouve",
    "Dear Sir or Madam,\n\nI am writing to",
    "The quick brown fox",
    "import numpy as np\n\n",
    "2 + 2 =",
    "The largest planet of the solar system is Jupiter, and the smallest one is",
    "To be, or not to be,",
    "Step 1: Preheat the oven. Step 2:",
]


@pytest.fixture(scope="module", params=[False, True], ids=["torch", "compiled"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Build an engine for steps of up to 20 requests, once with torch's operations, once with the compiled kernels."""
    if request.param and COMPILER is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROSEINFER_CACHE_DIR", str(compiled_kernels_folder()))
        yield build_engine(
            EngineConfig(dtype="float32", device="cpu", max_model_len=256, max_batch_size=20, compile=request.param)
        )
    native_library.unload()


@pytest.fixture(scope="module")
def oracle() -> Callable[[tuple[int, ...], int], Tensor]:
    """A function that returns transformers' logits after each token of a sequence from a position on."""
    from transformers import AutoModelForCausalLM

    path = demo_gguf()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    @functools.cache
    @torch.inference_mode()
    def logits(token_ids: tuple[int, ...], first: int) -> Tensor:
        return Tensor(model(torch.tensor([token_ids])).logits[0, first:])

    return logits


@pytest.mark.timeout(900)  # on a busy machine
def test_greedy_tokens_equal_transformers_for_twenty_prompts_in_one_batch(
    engine: Engine, oracle: Callable[[tuple[int, ...], int], Tensor]
) -> None:
    """Each token must be the best one in transformers' logits, given all tokens before it.

    Two engines round differently, so the logit of a generated token may be up to 1e-4 below the best one.
    """
    outputs = engine.generate(PROMPTS, SamplingParams(max_new_tokens=32, stop_on_eos=False))
    assert len({len(output.prompt_token_ids) for output in outputs}) >= 6
    for output in outputs:
        assert len(output.token_ids) == 32
        token_ids = output.prompt_token_ids + output.token_ids
        logits = oracle(tuple(token_ids[:-1]), len(output.prompt_token_ids) - 1)
        best = logits.max(dim=-1).values
        ours = logits.gather(-1, torch.tensor(output.token_ids)[:, None])[:, 0]
        assert (best - ours).max() < 1e-4, output.text


def test_it_ends_its_answer_by_itself(engine: Engine) -> None:
    (output,) = engine.generate([[{"role": "user", "content": "Name three planets."}]])
    assert output.text == "1. Mars\n2. Venus\n3. Earth"
    assert output.finish_reason == "stop"
    assert output.token_ids[-1] in engine.eos_token_ids
