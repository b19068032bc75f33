"""The side-by-side benchmark: an exported model completes prompts alike, and agreement is counted correctly."""

import sys
from pathlib import Path

import pytest

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from compare import _agreeing
from contenders import Job, run_contender
from shared_weights import export


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_every_contender_completes_an_exported_model_alike(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(name)
    config = EngineConfig(model=str(source), dtype="float32", device="cpu", max_batch_size=2)
    engine = build_engine(config)
    prompts = [[1, 2, 3, 4], [9, 8, 7, 6, 5], [4]]
    params = SamplingParams(max_new_tokens=6, stop_on_eos=False)
    expected = [output.token_ids for output in engine.generate(prompts, params)]

    folder = export(engine, tmp_path / "exported")
    job = Job(
        model_dir=str(folder),
        gguf=None,
        dtype="float32",
        device="cpu",
        threads=1,
        max_batch_size=2,
        max_model_len=32,
        engine={"model": str(folder), "dtype": "float32", "device": "cpu", "max_batch_size": 2},
        mode="offline",
        prompts=prompts,
        max_new_tokens=[6, 6, 6],
        repeats=1,
    )
    for contender in ("roseinfer", "transformers"):
        outcome = run_contender(contender, job, started_s=0.0)
        assert outcome.completions == expected, contender
        assert len(outcome.passes) == 1
        assert outcome.passes[0].elapsed_s > 0


def test_agreement_ends_at_the_first_difference() -> None:
    assert _agreeing([1, 2, 3], [1, 2, 3]) == 3
    assert _agreeing([1, 2, 3], [1, 9, 3]) == 1
    assert _agreeing([1, 2, 3], [1, 2]) == 2
