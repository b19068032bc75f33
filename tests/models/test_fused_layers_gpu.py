"""Tests on a GPU that a layer computes the same, whichever operations are fused into its matrix products."""

import pytest
import torch
from torch import nn

from roseinfer.kernels.attention.projection import AttentionLayer
from roseinfer.kernels.linear import skinny_linear as entry
from roseinfer.kernels.linear.skinny_linear import linear_key
from roseinfer.kernels.tuning import Choice
from roseinfer.models.decoder import DecoderLayer
from roseinfer.models.gpt2 import GPT2Layer
from roseinfer.models.shapes import SHAPES

pytestmark = pytest.mark.gpu

TILES: Choice = (64, 64, 4, 4, 3, 256)


class ShortStep:
    """Stands in for attention: returns the queries."""

    rows = None

    def attend(self, qkv: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
        num_heads, head_dim = layer.spec.num_heads, layer.spec.head_dim
        return qkv[:, : num_heads * head_dim].view(len(qkv), num_heads, head_dim)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b"])
def test_every_mixture_of_fused_and_separate_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    make: type[nn.Module] = GPT2Layer if name == "gpt2" else DecoderLayer
    with torch.device("cuda"):
        layers = [make(SHAPES[name], index).to(torch.bfloat16) for index in range(2)]
        x = torch.randn(24, SHAPES[name].hidden_size, dtype=torch.bfloat16)
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        parameter.normal_(std=0.03)
    first = layers[0]
    widened, activation = (
        (first.mlp.up, first.mlp.activation) if name == "gpt2" else (first.mlp.gate_up, "silu_and_mul")
    )
    keys = [
        linear_key(24, first.attention.qkv.weight, first.attention_norm.description, None, None),
        linear_key(24, first.attention.output.weight, None, None, x),
        linear_key(24, widened.weight, first.mlp_norm.description, activation, None),
        linear_key(24, first.mlp.down.weight, None, None, x),
    ]

    def run() -> torch.Tensor:
        hidden, residual = x, None
        for layer in layers:
            hidden, residual = layer(hidden, residual, ShortStep())
        return hidden if residual is None else hidden + residual

    known: dict[str, Choice] = {}
    monkeypatch.setattr(entry, "tuned", lambda _: known)
    expected = run()
    for mask in range(1, 16):
        known.clear()
        known.update({key: TILES for index, key in enumerate(keys) if mask >> index & 1})
        torch.testing.assert_close(run(), expected, rtol=5e-2, atol=5e-2)
