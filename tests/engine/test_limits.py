"""Limits of a step that follow the device, and the memory that KV cache and activations share."""

from pathlib import Path
from typing import Any, ClassVar
from weakref import finalize

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from roseinfer.attention.backend import AttendsFromAll
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.attention.torch_projection import split_projection
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine import memory
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.limits import StepLimits, activation_bytes, step_limits
from roseinfer.engine.memory import check_step_fits, kv_cache_bytes, parse_bytes
from roseinfer.errors import UsageError
from roseinfer.kernels.attention.projection import Projection
from roseinfer.models.shapes import SHAPES

GIB = 1 << 30
CUDA = torch.device("cuda")


def limits_of(model: str, spare_gib: float, **settings: Any) -> StepLimits:
    config = SHAPES[model]
    return step_limits(
        EngineConfig(**settings),
        config,
        is_gpu=True,
        max_model_len=config.max_position_embeddings,
        element_bytes=2,
        spare_bytes=int(spare_gib * GIB),
    )


@pytest.mark.parametrize(
    ("model", "spare_gib", "expected"),
    [
        ("qwen3-0.6b", 130, StepLimits(512, 16896)),
        ("qwen3-0.6b", 20, StepLimits(128, 16512)),
        ("llama-3-8b", 120, StepLimits(512, 16896)),
        ("llama-3-8b", 60, StepLimits(256, 16640)),
        ("llama-3-8b", 6, StepLimits(32, 4128)),
        ("llama-3-8b", 0.5, StepLimits(8, 520)),
        ("gpt2", 70, StepLimits(512, 16896)),
    ],
)
def test_limits_follow_model_and_memory(model: str, spare_gib: float, expected: StepLimits) -> None:
    assert limits_of(model, spare_gib) == expected


def test_limits_that_are_set_are_used() -> None:
    assert limits_of("llama-3-8b", 60, max_batch_size=3) == StepLimits(3, 16387)
    assert limits_of("llama-3-8b", 60, max_batch_tokens=77) == StepLimits(256, 77)
    assert limits_of("llama-3-8b", 60, max_batch_size=3000, max_batch_tokens=99) == StepLimits(3000, 99)


def test_a_cpu_has_limits_of_its_own(tiny_llama: Path) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), device="cpu"))
    assert engine.limits == StepLimits(8, 2048)
    assert engine.config.max_batch_size is None


def test_activations_of_a_large_step_hold_gate_and_up() -> None:
    """llama-3-8b in bfloat16: 16,384 tokens x (6 x 4,096 + 4 x 14,336) elements, 2.5 GiB."""
    assert activation_bytes(SHAPES["llama-3-8b"], 16_384, element_bytes=2) == 16_384 * (24_576 + 57_344) * 2


class LiveBytes(TorchDispatchMode):
    """The bytes of storages that operators allocate inside the context: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = set(map(address, tensors_in((args, kwargs))))
        for each in tensors_in(out):
            if address(each) not in self._known | given:
                self._add(each)
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage, key = tensor.untyped_storage(), address(tensor)
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in a tree, without packed weights, which have no storage."""
    return [each for each in tree_iter(tree) if isinstance(each, torch.Tensor) and each.layout is torch.strided]


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def peak_of(engine: Engine, prompt: int) -> list[int]:
    """Return the peak of activations of each step of one prompt."""
    scheduler = engine.scheduler("online")
    scheduler.submit([index % 200 for index in range(prompt)], SamplingParams(max_new_tokens=1))
    peaks = []
    while scheduler.has_unfinished:
        with LiveBytes() as live:
            scheduler.step()
        peaks.append(live.peak)
    return peaks


WIDE = {"hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 4096, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_llama

    return save_llama(tmp_path_factory.mktemp("wide"), **WIDE)


def engine_of(folder: Path, **settings: Any) -> Engine:
    config = {"model": str(folder), "dtype": "float32", "device": "cpu", "compile": None, "prefix_cache": False}
    return build_engine(EngineConfig(**{**config, "max_batch_size": 2, **settings}))


class NoAttention(AttendsFromAll):
    """A backend that returns the queries, so that only the activations of the model and the runner are left."""

    capturable: ClassVar[bool] = False

    def prepare(self, layout: StepLayout, cache: KVCache) -> None:
        pass

    def attend(self, projection: Projection, metadata: None) -> torch.Tensor:
        return split_projection(projection, {})[0]


@pytest.mark.usefixtures("single_threaded")
def test_the_estimate_covers_the_activations_of_a_step(wide: Path) -> None:
    engine = engine_of(wide, max_batch_tokens=256)
    engine.runner.attention = NoAttention()
    (peak,) = peak_of(engine, 256)
    expected = activation_bytes(engine.model_config, 256, samples=1, element_bytes=4)
    assert expected / 2 < peak <= expected


@pytest.mark.usefixtures("single_threaded")
def test_chunks_of_a_long_prompt_reuse_the_memory_of_the_first(wide: Path) -> None:
    engine = engine_of(wide, max_batch_tokens=256)
    engine.runner.attention = NoAttention()
    first, *others = peak_of(engine, 3072)
    assert len(others) == 11
    assert max(others) <= 1.05 * first


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("512", 512),
        ("7 B", 7),
        ("3kB", 3000),
        ("3KB", 3000),
        ("1.5KiB", 1536),
        ("2MB", 2 * 10**6),
        ("2MiB", 2 << 20),
        ("500GB", 500 * 10**9),
        ("0.5TiB", 1 << 39),
        ("1TB", 10**12),
        ("3kiB", None),
        ("-1GiB", None),
        ("lots", None),
    ],
)
def test_amounts_of_memory_have_decimal_and_binary_units(text: str, num_bytes: int | None) -> None:
    assert parse_bytes(text) == num_bytes


def test_the_kv_cache_leaves_the_memory_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "spare_memory_bytes", lambda device: 10 * GIB)
    assert kv_cache_bytes(None, CUDA, 2 * GIB) == int(7.2 * GIB)
    assert kv_cache_bytes(None, CUDA, 11 * GIB) == 0
    assert kv_cache_bytes("9GiB", CUDA, 2 * GIB) == 9 * GIB
    check_step_fits("8GiB", 8 * GIB, 2 * GIB, CUDA)
    check_step_fits("9GiB", 9 * GIB, 2 * GIB, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"--kv-cache-memory 90% leaves 1.00 of the 10.00 GiB that cuda has left, and"):
        check_step_fits("90%", 9 * GIB, 2 * GIB, CUDA)
