"""The examples of docs/extending.md run: each adds its part to the engine or to the analysis of a trace."""

import re
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import torch
from projections import fused

from roseinfer.attention.gather_attention import GatherAttention
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.linear.plain_weight import PlainWeight
from roseinfer.models.architectures import ARCHITECTURES, register
from roseinfer.trace.facts.trace_facts import gather_facts
from roseinfer.trace.reading.trace_reader import read_trace

ROOT = Path(__file__).parents[1]
TRACE = ROOT / "tests" / "trace" / "data" / "origin_gather_decode_h200.json.gz"

pytestmark = pytest.mark.usefixtures("single_threaded")


def example(containing: str) -> ModuleType:
    """Return the page's one Python example that contains a text, run as a module."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    [source] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if containing in block]
    module = ModuleType("example")
    exec(compile(source, containing, "exec"), module.__dict__)
    return module


def test_the_example_of_an_architecture_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roseinfer.models.architectures.ARCHITECTURES", dict(ARCHITECTURES))
    register(example("ALTERNATING =").ALTERNATING)
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4}
    more = {"vocab_size": 50, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "sliding_window": 3}
    (tmp_path / "config.json").write_bytes(msgspec.json.encode({"model_type": "alternating", **fields, **more}))
    engine = build_engine(EngineConfig(model=str(tmp_path), load_format="dummy", dtype="float64", device="cpu"))
    assert [spec.window for spec in engine.model_config.attention_specs] == [None, 3, None, 3]
    [output] = engine.generate([1, 2, 3, 4, 5], SamplingParams(max_new_tokens=4))
    assert len(output.token_ids) == 4


@pytest.mark.parametrize("scoring", [PLAIN_SCORING, Scoring(window=2, softcap=0.5)], ids=str)
def test_the_example_of_an_attention_backend_attends_as_the_reference_does(scoring: Scoring) -> None:
    torch.manual_seed(0)
    shape = {"num_layers": 1, "num_blocks": 6, "block_size": 2, "num_kv_heads": 1, "head_dim": 4}
    caches = [KVCache(**shape, dtype=torch.float64, device=torch.device("cpu")) for _ in range(2)]
    caches[0].data.copy_(torch.randn(caches[0].data.shape))
    caches[1].data.copy_(caches[0].data)
    # One request with three tokens in the cache and two new ones, and one with its first three tokens.
    slots = torch.tensor([7, 2, 8, 9, 0])
    layout = StepLayout(query_lens=[2, 3], context_lens=[3, 0], block_tables=[[5, 3, 1], [4, 0]], slots=slots)
    new = (torch.randn(5, 2, 4).double(), torch.randn(5, 1, 4).double(), torch.randn(5, 1, 4).double())
    results = []
    for kind, cache in zip((example("OneByOneAttention").OneByOneAttention, GatherAttention), caches, strict=True):
        backend = kind.for_cache(cache)
        assert backend is not None
        results.append(backend.attend(fused(*new, scoring=scoring), backend.prepare(layout, cache)))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(caches[0].data, caches[1].data)


def test_the_example_of_a_weight_form_multiplies() -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(6, 8).bfloat16().float(), torch.randn(3, 8), torch.randn(6)
    form, plain = example("RoundedWeight").RoundedWeight(weight), PlainWeight(weight)
    torch.testing.assert_close(form.linear(x, bias, "silu_and_mul"), plain.linear(x, bias, "silu_and_mul"))
    assert torch.equal(form.values(torch.float32), weight)
    assert form.nbytes * 2 == plain.nbytes


def test_the_example_of_an_analysis_summarizes_a_recorded_trace() -> None:
    found = example("CopySummary").summarize_copies(gather_facts(read_trace(TRACE)))
    assert found is not None
    assert found.copies > 0
    assert 0 < found.percent < 100
