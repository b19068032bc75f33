"""Tests the loss of accuracy by quantized weights on a part of the text of benchmarks/results/perplexity.md."""

import sys
from pathlib import Path

import pytest

from roseinfer.models.linear import Linear

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from perplexity import FEW_ROWS, MANY_ROWS, TEXT, build, perplexity

NUM_TOKENS = 256


@pytest.fixture(scope="module")
def dequantized() -> float:
    engine = build("smollm2-135m", "float32", MANY_ROWS)
    return perplexity(engine, engine.encode(TEXT.read_text(encoding="utf-8"))[:NUM_TOKENS], NUM_TOKENS)


@pytest.mark.parametrize("rows", [MANY_ROWS, FEW_ROWS])
def test_weights_kept_as_in_the_file_are_within_1_percent_of_the_dequantized_ones(
    rows: int, dequantized: float
) -> None:
    engine = build("smollm2-135m", "as in the file", rows)
    assert all(layer.packed for layer in engine.runner.model.modules() if isinstance(layer, Linear))
    token_ids = engine.encode(TEXT.read_text(encoding="utf-8"))[:NUM_TOKENS]
    assert perplexity(engine, token_ids, NUM_TOKENS) == pytest.approx(dequantized, rel=0.01)
