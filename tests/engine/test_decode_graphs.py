"""The step that decode graphs capture, run without a graph."""

from pathlib import Path

import pytest
import torch

from roseinfer.attention.paged_kernels import PagedKernelAttention
from roseinfer.config import EngineConfig
from roseinfer.engine.decode_graphs import DecodeGraphs
from roseinfer.engine.factory import build_engine


def test_a_rehearsal_writes_to_no_block_of_a_request_and_runs_under_spans(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # there is no device to pin it for
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", max_batch_size=4))
    runner = engine.runner
    cache = runner.cache.data
    graphs = DecodeGraphs(
        runner.model,
        runner.cache,
        PagedKernelAttention(),  # the backend that decodes on the device; its kernels have references
        max_batch_size=4,
        max_blocks=8,
        max_steps=2,
        scrap_block=runner.cache.num_blocks - 1,
    )
    with torch.inference_mode():
        cache.normal_()
    before = cache.clone()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for kind in ("greedy", "top_k", "all"):
            graphs.rehearse((4, kind), replay=False)
    assert graphs.captured == []
    assert not torch.equal(cache[:, :, -1], before[:, :, -1])
    torch.testing.assert_close(cache[:, :, :-1], before[:, :, :-1], rtol=0, atol=0)
    spans = {event.name: event for event in profiler.events() if event.name.startswith("roseinfer.")}
    assert set(spans) == {
        "roseinfer.model.forward",
        "roseinfer.kv.append",
        "roseinfer.attention",
        "roseinfer.sample",
    }
    assert spans["roseinfer.attention"].cpu_parent.name == "roseinfer.model.forward"
