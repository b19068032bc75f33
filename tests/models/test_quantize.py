"""Tests of quantized weights: which layers of which files are quantized, and how far the logits move."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from architecture_models import DECODER, random_model, random_prompt
from stepping import run_traced
from test_architectures_gguf import write_gguf

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.device import resolve_quantization
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import UsageError
from roseinfer.kernels.linear.plain_weight import PlainWeight
from roseinfer.models.linear import Linear

pytestmark = pytest.mark.usefixtures("single_threaded")

ARCHITECTURES = ["llama", "llama, tied head", "mistral", "qwen2", "qwen3", "gpt2", "gpt2, untied head"]


@pytest.fixture(autouse=True)
def sizes_of_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tiny models the smallest sizes that torch packs in 4 bits."""
    for name, size in {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}.items():
        monkeypatch.setitem(DECODER, name, size)
    monkeypatch.setitem(random_model.__globals__["GPT2"], "n_embd", 128)


def quantize_gguf(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str]) -> None:
    """Patch GGUF writers to quantize matrices. `kinds` maps parts of names to GGUF types; the first match counts."""
    plain = gguf.GGUFWriter.add_tensor

    def add_tensor(self: gguf.GGUFWriter, name: str, tensor: Any, **settings: Any) -> None:
        kind = next((kind for part, kind in kinds.items() if part in name), None)
        if kind is None or tensor.ndim < 2:
            return plain(self, name, tensor, **settings)
        quantization = gguf.GGMLQuantizationType[kind]
        return plain(self, name, gguf.quantize(tensor, quantization), raw_dtype=quantization)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add_tensor)


def engine_of(path: Path, **settings: Any) -> Engine:
    return build_engine(EngineConfig(model=str(path), device="cpu", prefix_cache=False, **settings))


def logits_of(engine: Engine) -> torch.Tensor:
    """Return the logits of two prompts: with more rows than the kernels for few rows take, and with fewer."""
    params = SamplingParams(max_new_tokens=1, stop_on_eos=False, logprobs=0)
    return torch.cat(
        [traced.logits.float() for traced in run_traced(engine, [random_prompt(90), random_prompt(7)], params)]
    )


def kinds_of(engine: Engine) -> list[str]:
    """Return the class name of each linear layer's packed form, in order. "NoneType" is a plain weight."""
    return [type(layer.packed).__name__ for layer in engine.runner.model.modules() if isinstance(layer, Linear)]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_4_bits_of_a_gguf_are_kept_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_gguf(monkeypatch, {"blk.": "Q4_1", "output.weight": "Q8_0", "token_embd": "Q8_0"})
    path = write_gguf(random_model(name), tmp_path / "model.gguf")
    kept, dense = engine_of(path), engine_of(path, quantize="none")
    dense_views = dense.runner.model.weight_views()
    for key, view in kept.runner.model.weight_views().items():
        # Scales are rounded to bfloat16, and the head is requantized from groups of 32 to whole rows.
        assert error(view.float(), dense_views[key].float()) < 0.02, key
    assert kinds_of(kept) == ["Int4Groups"] * 8 + ["Int8Rows"] * (len(kinds_of(kept)) - 8)
    assert not {"Int4Groups", "Int8Rows"} & set(kinds_of(dense))
    assert kept.num_parameters == dense.num_parameters
    assert kept.weight_bytes.layers < dense.weight_bytes.layers / 2.5
    assert kept.weight_bytes.head < dense.weight_bytes.head / 1.8
    assert error(logits_of(kept), logits_of(dense)) < 0.2


def test_a_product_whose_parts_differ_gets_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_gguf(monkeypatch, {"attn_v": "Q8_0", "ffn_down": "Q5_1", "blk.": "Q4_0"})
    path = write_gguf(random_model("llama"), tmp_path / "model.gguf")
    kept, dense = engine_of(path), engine_of(path, quantize="none")
    layer = ["Int8Rows", "Int4Groups", "Int4Groups", "Int8Rows"]  # qkv, o, gate-up, down
    assert kinds_of(kept) == [*layer, *layer, "NoneType"], "the head is not quantized in the file"
    assert error(logits_of(kept), logits_of(dense)) < 0.2


def test_a_dtype_that_is_asked_for_dequantizes_a_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_gguf(monkeypatch, {"blk.": "Q4_1"})
    path = write_gguf(random_model("llama"), tmp_path / "model.gguf")
    assert not {"Int4Groups", "Int8Rows"} & set(kinds_of(engine_of(path, dtype="bfloat16")))
    assert set(kinds_of(engine_of(path, dtype="bfloat16", quantize="int8"))) == {"Int8Rows"}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.2), ("int4", 0.7)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_any_model_can_be_quantized(name: str, quantize: str, most: float, dtype: str, tmp_path: Path) -> None:
    random_model(name).save_pretrained(tmp_path)
    dense, small = engine_of(tmp_path, dtype="float32"), engine_of(tmp_path, dtype=dtype, quantize=quantize)
    assert "NoneType" not in kinds_of(small)
    assert error(logits_of(small), logits_of(dense)) < most
    assert small.dtype_name == dtype


def test_a_quantized_model_computes_the_same_with_either_kernel(tmp_path: Path) -> None:
    random_model("llama, tied head").save_pretrained(tmp_path)
    engine = engine_of(tmp_path, dtype="float32", quantize="int4")
    with_kernels = logits_of(engine)
    for layer in engine.runner.model.modules():
        if isinstance(layer, Linear):
            layer.weight = torch.nn.Parameter(layer.matrix, requires_grad=False)
            layer.form = PlainWeight(layer.weight)
    assert error(with_kernels, logits_of(engine)) < 0.1, "the quantized kernels round activations to bfloat16"


def test_dummy_weights_can_be_quantized() -> None:
    engine = build_engine(
        EngineConfig(model="gpt2", load_format="dummy", device="cpu", quantize="int8", max_batch_size=1)
    )
    assert set(kinds_of(engine)) == {"Int8Rows"}


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_dtypes_that_the_kernels_lack_are_refused(dtype: str, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="quantize int8 computes in bfloat16 or float32"):
        engine_of(tmp_path, dtype=dtype, quantize="int8")


def test_a_gpu_is_refused() -> None:
    config = EngineConfig(quantize="int8")
    with pytest.raises(UsageError, match="quantize int8 runs on a CPU only") as refusal:
        resolve_quantization(config, torch.device("cuda"), torch.bfloat16, is_gguf=True)
    assert "\n" not in str(refusal.value)
    auto = resolve_quantization(EngineConfig(), torch.device("cuda"), torch.bfloat16, is_gguf=True)
    assert auto == "none"
