"""A prompt of 5,000 tokens gives transformers' logits. `benchmarks/long_prompt_logits.py` runs every architecture."""

import pytest

from benchmarks.long_prompt_logits import difference

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox"])
def test_every_position_of_a_long_prompt_agrees(name: str) -> None:
    assert difference(name, tokens=5000) < 1e-4
