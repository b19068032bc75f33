"""An architecture whose layers differ in window, rope base and bound: this file and one `register` line define it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from native_builds import COMPILER, compiled_kernels_folder
from safetensors.torch import save_file
from stepping import run_traced
from torch import Tensor

from roseinfer.attention.compiled_attention import CompiledAttention
from roseinfer.attention.gather_attention import GatherAttention
from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.kernels.attention.attention_spec import Rope
from roseinfer.kernels.cpu import native_library, native_step
from roseinfer.models.architectures import ARCHITECTURES, register
from roseinfer.models.compiled_decoder import CompiledDecoder
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.model_config import ModelConfig

pytestmark = pytest.mark.usefixtures("single_threaded", "toy")

WINDOWS = [None, 3, None, 5]
THETAS = [10000.0, 100.0, 100.0, 10000.0]
SOFTCAPS = [None, 1.0, 0.5, None]
"""Window, rope base and bound of the scores of each layer."""
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB = 64, 4, 2, 32, 128, 96
EPS = 1e-5
LAYER_NAMES = (
    "input_layernorm",
    "post_attention_layernorm",
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
PROMPTS = [[7, 3, 50, 11, 9, 2, 60, 33, 21, 5, 8], [80, 81]]
NEW_TOKENS = 6


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the shape in the toy's config.json: a Llama with a window, a rope base and a bound per layer."""
    config = hf_config("toy", raw)
    specs = (
        msgspec.structs.replace(spec, window=window, rope=Rope(theta=theta), softcap=softcap)
        for spec, window, theta, softcap in zip(
            config.attention_specs, raw["windows"], raw["thetas"], raw["softcaps"], strict=True
        )
    )
    return msgspec.structs.replace(config, layer_attention=tuple(specs))


TOY = Architecture("toy", Decoder, hugging_face(config_from_hf))


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    register(TOY)
    yield
    del ARCHITECTURES["toy"]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights, by their names in a checkpoint."""
    source = torch.Generator().manual_seed(7)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }
    for layer in range(len(WINDOWS)):
        parts = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return {
        name: torch.randn(shape, generator=source) * 0.2 + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the toy."""
    path = tmp_path_factory.mktemp("toy")
    config = {
        "model_type": "toy",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": len(WINDOWS),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 64,
        "rms_norm_eps": EPS,
        "windows": WINDOWS,
        "thetas": THETAS,
        "softcaps": SOFTCAPS,
    }
    (path / "config.json").write_bytes(msgspec.json.encode(config))
    save_file(weights, path / "model.safetensors")
    return path


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def rotated(x: Tensor, theta: float) -> Tensor:
    """Rotate [tokens, heads, head_dim] by complex multiplication of the pairs (x[i], x[i + head_dim / 2])."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(len(x), dtype=torch.float64), frequencies)[:, None]
    pairs = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def reference_logits(weights: dict[str, Tensor], token_ids: list[int]) -> Tensor:
    """Compute the logits in float64, from the definition of the model: [tokens, vocab_size]."""
    double = {name: tensor.double() for name, tensor in weights.items()}
    at = torch.arange(len(token_ids))
    x = double["model.embed_tokens.weight"][token_ids]
    for layer, (window, theta, softcap) in enumerate(zip(WINDOWS, THETAS, SOFTCAPS, strict=True)):
        own = {name: double[f"model.layers.{layer}.{name}.weight"] for name in LAYER_NAMES}
        normed = rms_norm(x, own["input_layernorm"])
        q, k, v = ((normed @ own[f"self_attn.{name}_proj"].T).unflatten(-1, (-1, HEAD_DIM)) for name in "qkv")
        q, k = rotated(q, theta), rotated(k, theta)
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
        hidden = at[None, :] > at[:, None]
        if window is not None:
            hidden = hidden | (at[None, :] <= at[:, None] - window)
        scores = torch.einsum("qhd,khd->hqk", q, k) / HEAD_DIM**0.5
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        attended = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
        x = x + attended.flatten(1) @ own["self_attn.o_proj"].T
        normed = rms_norm(x, own["post_attention_layernorm"])
        gate, up = normed @ own["mlp.gate_proj"].T, normed @ own["mlp.up_proj"].T
        x = x + (gate * gate.sigmoid() * up) @ own["mlp.down_proj"].T
    return rms_norm(x, double["model.norm.weight"]) @ double["lm_head.weight"].T


@pytest.fixture(scope="module")
def expected(weights: dict[str, Tensor]) -> list[list[int]]:
    """Each prompt with the completion that greedy decoding by the reference appends."""
    found = []
    for prompt in PROMPTS:
        token_ids = list(prompt)
        for _ in range(NEW_TOKENS):
            best, second = reference_logits(weights, token_ids)[-1].topk(2)[0].tolist()
            assert best - second > 0.01, "no near tie, which rounding could decide"
            token_ids.append(int(reference_logits(weights, token_ids)[-1].argmax()))
        found.append(token_ids)
    return found


def check(engine: Engine, weights: dict[str, Tensor], expected: list[list[int]]) -> None:
    """Compare every token and every logit with the reference.

    The tolerance covers rotary tables, which are computed in float32 for every dtype.
    """
    params = SamplingParams(max_new_tokens=NEW_TOKENS, stop_on_eos=False)
    for traced, token_ids in zip(run_traced(engine, PROMPTS, params), expected, strict=True):
        assert traced.token_ids == token_ids
        wanted = reference_logits(weights, token_ids)[:-1]
        assert wanted.std() > 0.1, "logits that hardly differ would prove nothing"
        torch.testing.assert_close(traced.logits.cpu().double(), wanted, rtol=0, atol=1e-3)


def engine_of(folder: Path, dtype: Any, **settings: Any) -> Engine:
    fields: dict[str, Any] = {"device": "cpu", "prefix_cache": False, "block_size": 4, "max_model_len": 40}
    return build_engine(EngineConfig(model=str(folder), dtype=dtype, **fields | settings))


STEPS: list[dict[str, Any]] = [{}, {"max_batch_tokens": 6, "max_batch_size": 2}]
"""Settings for whole prompts, and for chunks."""


@pytest.mark.parametrize("steps", STEPS, ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("attention", ["gather", "paged"])
def test_torch_backends(
    attention: str,
    dtype: str,
    steps: dict[str, Any],
    folder: Path,
    weights: dict[str, Tensor],
    expected: list[list[int]],
) -> None:
    engine = engine_of(folder, dtype, attention=attention, **steps)
    assert type(engine.runner.attention) is (GatherAttention if attention == "gather" else TorchAttention)
    check(engine, weights, expected)


@pytest.mark.parametrize("steps", STEPS, ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("max_rows", [64, 0], ids=["one call per step", "one call per operation"])
@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_compiled_backend(
    max_rows: int,
    steps: dict[str, Any],
    folder: Path,
    weights: dict[str, Tensor],
    expected: list[list[int]],
    compiled_kernels: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_step, "MAX_ROWS", max_rows)
    engine = engine_of(folder, "float32", compile=True, **steps)
    assert type(engine.runner.attention) is CompiledAttention
    assert isinstance(engine.runner.model, CompiledDecoder)
    check(engine, weights, expected)


@pytest.fixture(scope="module")
def cache_dir() -> Path:
    return compiled_kernels_folder()


@pytest.fixture
def compiled_kernels(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(cache_dir))
    native_library.unload()
    yield
    native_library.unload()


@pytest.mark.parametrize("steps", STEPS, ids=["whole prompts", "chunks"])
def test_triton_backend(
    steps: dict[str, Any],
    folder: Path,
    weights: dict[str, Tensor],
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the kernels on a GPU if there is one, else in Triton's interpreter."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernels = ("decode_kernel", "paged_prefill", "rope_append")
    if device == "cpu":
        for module in ("attention.triton_attention", *(f"kernels.attention.{name}" for name in kernels)):
            monkeypatch.setattr(f"roseinfer.{module}.runs_triton", lambda *tensors: True)
    engine = engine_of(folder, "float32", device=device, **steps)
    assert type(engine.runner.attention) is TritonAttention
    check(engine, weights, expected)
