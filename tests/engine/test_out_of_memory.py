"""A device with too little memory: fewer blocks, no graphs, or a clear one-line error."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine import factory, memory
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.graph_sizes import GraphKey, GraphSizes
from roseinfer.errors import ModelError, RoseinferError

pytestmark = pytest.mark.usefixtures("single_threaded")

PARAMS = SamplingParams(max_new_tokens=9, stop_on_eos=False)


def engine_of(model: Path) -> Engine:
    return build_engine(EngineConfig(model=str(model), dtype="float64", device="cpu", block_size=4, overlap=True))


def tokens_of(engine: Engine) -> list[list[int]]:
    return [output.token_ids for output in engine.generate([[1, 2, 3], [4]], PARAMS)]


@pytest.mark.parametrize("source", ["file", "dummy"])
def test_weights_that_cannot_fit_are_refused_with_the_arithmetic_before_any_is_read(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    settings: dict[str, Any] = {"model": str(tiny_llama)} if source == "file" else {"model": "gpt2"}
    config = EngineConfig(
        **settings, load_format="auto" if source == "file" else "dummy", dtype="float64", device="cpu"
    )
    read: list[int] = []
    num_bytes = 8 * (build_engine(config).num_parameters if source == "file" else 124_439_808)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: num_bytes - 1)
    with pytest.raises(ModelError, match=rf"need .* GiB of memory \({num_bytes // 8:,} parameters x 8 bytes\), and .*"):
        build_engine(config, on_progress=lambda done, _: read.append(done))
    assert read == []
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: num_bytes)
    if source == "file":
        build_engine(config)


def test_weights_that_a_file_keeps_in_few_bits_need_only_those(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(device="cpu")  # the demo model: 4- and 8-bit codes in a GGUF file
    num_bytes = build_engine(config).num_parameters
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: num_bytes)
    build_engine(config)
    with pytest.raises(ModelError, match="parameters x"):
        build_engine(EngineConfig(device="cpu", quantize="none"))
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: num_bytes // 4)
    with pytest.raises(ModelError, match="as stored in the file"):
        build_engine(config)


def test_memory_that_the_allocator_does_not_get_is_one_clear_line(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty

    def refuses(*size: Any, **options: Any) -> torch.Tensor:
        if torch.get_default_device().type == "meta":
            return empty(*size, **options)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")

    monkeypatch.setattr(torch, "empty", refuses)
    with pytest.raises(ModelError, match="does not fit into the memory of cpu"):
        engine_of(tiny_llama)


def test_the_memory_that_is_available_is_some_of_the_machines() -> None:
    assert 0 < memory.available_memory_bytes() < 1 << 50


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
        num_captured = 0
        sizes = GraphSizes(max_batch_size=2, max_top_k=64)

        def wants(self, _key: GraphKey) -> bool:
            return True

        def substitute(self, key: GraphKey) -> GraphKey:
            return key

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
        with pytest.raises(RoseinferError, match=r"no memory for a step of 4 tokens: lower --max-batch-tokens"):
            tokens_of(engine)
    assert engine.pool.num_free == engine.pool.num_blocks
    assert [len(tokens) for tokens in tokens_of(engine)] == [9, 9]


def test_a_step_that_is_launched_again_counts_its_tokens_once_for_penalties(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_new_tokens=12, frequency_penalty=2.0, logit_bias={5: 30.0, 6: 28.0}, stop_on_eos=False)

    def completion(failing: set[int]) -> list[int]:
        engine, calls = engine_of(tiny_llama), count()
        forward = engine.runner.model.forward

        def sometimes_too_much(*arguments: Any) -> Any:
            if next(calls) in failing:
                raise torch.OutOfMemoryError
            return forward(*arguments)

        monkeypatch.setattr(engine.runner.model, "forward", sometimes_too_much)
        scheduler = engine.scheduler("online")
        scheduler.submit([1, 2, 3], params)
        while scheduler.has_unfinished:
            with suppress(RoseinferError):
                scheduler.step()
        return scheduler.take_outputs()[0].token_ids

    expected = completion(set())
    assert set(expected) == {5, 6}, "the penalty alternates between the two biased tokens"
    assert completion({0, 3, 4}) == expected


class FailingAllocation(TorchDispatchMode):
    """Lets the operation number `at` find no memory, counted from 1; counts the operations."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        allocates = not func.is_view and "resolve" not in func.__name__  # `tolist` calls those, to no effect
        self.seen += allocates
        if allocates and self.seen == self.at:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"
            )
        return func(*args, **(kwargs or {}))


def test_an_engine_survives_each_operation_of_a_run_that_finds_no_memory(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama)
    expected = tokens_of(engine)
    with FailingAllocation() as counted:
        assert tokens_of(engine) == expected
    assert counted.seen > 100
    for at in range(1, counted.seen + 1, counted.seen // 20):
        engine.pool.reset_prefix_cache()
        with (
            FailingAllocation(at),
            pytest.raises(RoseinferError, match=r"^cpu has no memory for a step of .* tokens"),
        ):
            tokens_of(engine)
        assert engine.pool.num_free == engine.pool.num_blocks
    assert tokens_of(engine) == expected


def test_each_operation_of_a_build_that_finds_no_memory_is_one_line(tiny_llama: Path) -> None:
    config = EngineConfig(model=str(tiny_llama), load_format="dummy", dtype="float64", device="cpu")
    with FailingAllocation() as counted:
        build_engine(config)
    failed = 0
    for at in range(1, counted.seen + 1, counted.seen // 15):
        with FailingAllocation(at), suppress(ModelError):  # the KV cache tries again with fewer blocks
            build_engine(config)
            failed -= 1
        failed += 1
    assert failed > 10
