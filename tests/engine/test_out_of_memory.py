"""A device that has less memory than hoped for: fewer blocks, no graphs, or one clear line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from roseinfer.cache.kv_cache import KVCache
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine import factory
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.graph_key import GraphKey
from roseinfer.errors import ModelError, RoseinferError

pytestmark = pytest.mark.usefixtures("single_threaded")

PARAMS = SamplingParams(max_new_tokens=9, stop_on_eos=False)


def engine_of(model: Path) -> Engine:
    return build_engine(EngineConfig(model=str(model), dtype="float64", device="cpu", block_size=4, overlap=True))


def tokens_of(engine: Engine) -> list[list[int]]:
    return [output.token_ids for output in engine.generate([[1, 2, 3], [4]], PARAMS)]


@pytest.mark.parametrize("room", [1, 7, 100])
def test_the_pool_shrinks_until_it_fits(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    class Small(KVCache):
        def __init__(self, *, num_blocks: int, **more: Any) -> None:
            if num_blocks > room:
                raise torch.OutOfMemoryError
            super().__init__(num_blocks=num_blocks, **more)

    expected = tokens_of(engine_of(tiny_llama))
    monkeypatch.setattr(factory, "KVCache", Small)
    if room == 1:
        with pytest.raises(ModelError, match="no memory for a KV cache"):
            engine_of(tiny_llama)
        return
    engine = engine_of(tiny_llama)
    assert room // 2 <= engine.runner.cache.num_blocks <= room
    assert tokens_of(engine) == expected


def test_without_memory_for_graphs_the_engine_goes_on_without(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class NoRoom:
        missing = (GraphKey(1, "greedy"), GraphKey(2, "greedy"))

        def key_of(self, _plan: object) -> GraphKey:
            return self.missing[0]

        def wants(self, _key: GraphKey) -> bool:
            return True

        def is_captured(self, _key: GraphKey) -> bool:
            return False

        def capture(self, _key: GraphKey) -> None:
            raise torch.OutOfMemoryError

    engine = engine_of(tiny_llama)
    expected = tokens_of(engine)
    engine.runner.graphs = NoRoom()  # type: ignore[assignment]
    assert tokens_of(engine) == expected
    assert "no memory for CUDA graphs" in caplog.text
    engine.runner.graphs = NoRoom()  # type: ignore[assignment]
    engine.runner.capture_missing()
    assert engine.runner.graphs is None


def test_a_step_without_memory_is_one_clear_line(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny_llama)

    def too_much(*_arguments: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner.model, "forward", too_much)
        with pytest.raises(RoseinferError, match=r"no memory for a step of 4 tokens: lower max_batch_tokens"):
            tokens_of(engine)
    assert engine.pool.num_free == engine.pool.num_blocks
    assert [len(tokens) for tokens in tokens_of(engine)] == [9, 9]
