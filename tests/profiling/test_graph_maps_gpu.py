"""GPU events of graph replays are attributed to the spans that they were captured under."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from roseinfer.config import EngineConfig, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.engine.factory import build_engine
from roseinfer.profiling.profile_run import profile_run
from roseinfer.trace.reading.trace_manifest import Graph
from roseinfer.workload.load_plan import at_once

pytestmark = pytest.mark.gpu

LAYERS = 6
PROMPTS = [list(range(1, 20 + 3 * index)) for index in range(6)]
SPANS = {
    "roseinfer.model.forward",
    "roseinfer.attention",
    "roseinfer.sample",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a small Qwen3 model, without weights."""
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    fields = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def replays(trace: Path) -> list[list[str]]:
    """Return the names of the GPU events of each graph launch, in order."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    launches = {event["args"]["correlation"] for event in events if "GraphLaunch" in event.get("name", "")}
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and event["args"]["correlation"] in launches:
            found[event["args"]["correlation"]].append(event)
    return [[event["name"] for event in sorted(one, key=lambda event: event["ts"])] for one in found.values()]


@pytest.mark.parametrize("params", [{}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 20}], ids=str)
@pytest.mark.parametrize("requests", [1, 6])
def test_events_of_replays_have_the_span_that_they_were_captured_under(
    model: Path, tmp_path: Path, params: dict[str, Any], requests: int
) -> None:
    engine = build_engine(EngineConfig(model=str(model), load_format="dummy", dtype="bfloat16", max_batch_size=8))
    config = RunConfig(
        sampling=SamplingParams(max_new_tokens=64, stop_on_eos=False, **params),
        workload=WorkloadConfig(mode="offline"),
        profile=ProfileConfig(profile_dir=str(tmp_path), phase="decode", wait=0, warmup=1, active=3),
    )
    prompts = PROMPTS[:requests]
    expected = [output.token_ids for output in engine.generate(prompts, config.sampling)]
    session = profile_run(engine, at_once(prompts, config.sampling), config).session
    assert not [warning for warning in session.manifest.warnings if "does not see" in warning or "no map" in warning]

    graphs = {tuple(event.name for event in graph.events): graph for graph in session.manifest.graphs or ()}
    recorded = [names for trace in session.traces for names in replays(trace)]
    assert recorded
    matched: list[Graph] = [graphs[tuple(names)] for names in recorded if tuple(names) in graphs]
    total = sum(map(len, recorded))
    with_span = sum(event.span is not None for graph in matched for event in graph.events)
    assert with_span >= 0.95 * total, (with_span, total, len(matched), len(recorded))
    assert {event.span for graph in matched for event in graph.events} >= SPANS

    spans = {span.name: span for span in session.summary.spans}
    attention = spans["roseinfer.attention"]  # its kernel also appends to the KV cache
    assert attention.parent == "roseinfer.model.forward"
    assert attention.gpu_events >= LAYERS * attention.calls
    assert attention.calls >= len(matched)
    assert not [note.message for note in session.summary.trust if "match no graph" in note.message]

    engine.pool.reset_prefix_cache()  # a prompt in other chunks is rounded differently
    found = [output.token_ids for output in engine.generate(prompts, config.sampling)]
    assert found == expected
