"""Tests of DeepSeek-MoE's first version, for which transformers has no class, against a plain reference.

The reference is `DeepseekMoE` of the model's own repository, deepseek-ai/deepseek-moe-16b-base: a softmax over all
experts, the best of them with their weights unchanged, and a shared MLP, in place of a Llama's MLPs.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_models import engine_logits, random_model, random_prompt, transformers_logits
from safetensors.torch import save_file
from torch import Tensor, nn

from roseinfer.errors import ModelError
from roseinfer.models.architectures import read_config
from roseinfer.models.dialect import Checkpoint

pytestmark = pytest.mark.usefixtures("single_threaded")

EXPERTS, TOP_K, WIDTH, SHARED = 5, 2, 16, 2


class Reference(nn.Module):
    """The sparse MLP, token by token."""

    def __init__(self, hidden: int, *, normalized: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, EXPERTS, bias=False)
        self.experts = nn.ModuleList(gated_mlp(hidden, WIDTH) for _ in range(EXPERTS))
        self.shared_experts = gated_mlp(hidden, SHARED * WIDTH)
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for token in x.flatten(0, -2):
            weights, chosen = self.gate(token).softmax(-1).topk(TOP_K)
            weights = weights / weights.sum() if self.normalized else weights
            own = [weight * apply(self.experts[index], token) for weight, index in zip(weights, chosen, strict=True)]
            rows.append(sum(own, apply(self.shared_experts, token)))
        return torch.stack(rows).view(x.shape)


def gated_mlp(hidden: int, width: int) -> nn.ModuleDict:
    shapes = {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
    return nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})


def apply(mlp: Any, x: Tensor) -> Tensor:
    out: Tensor = mlp["down_proj"](nn.functional.silu(mlp["gate_proj"](x)) * mlp["up_proj"](x))
    return out


@pytest.mark.parametrize("normalized", [False, True])
def test_logits_equal_the_reference_at_every_position(normalized: bool, tmp_path: Path) -> None:
    oracle = random_model("llama", num_hidden_layers=3)
    for layer in oracle.model.layers[1:]:
        layer.mlp = Reference(oracle.config.hidden_size, normalized=normalized)
        for parameter in layer.mlp.parameters():
            nn.init.normal_(parameter, 0.0, 0.3)
    config = oracle.config.to_dict() | {
        "model_type": "deepseek",
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "moe_intermediate_size": WIDTH,
        "n_shared_experts": SHARED,
        "first_k_dense_replace": 1,
        "norm_topk_prob": normalized,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in oracle.state_dict().items()}, tmp_path / "model.safetensors")
    for settings in ({}, {"max_batch_tokens": 11, "block_size": 4}):
        for token_ids, logits in engine_logits(tmp_path, [random_prompt(9), random_prompt(40)], 6, **settings):
            assert (logits - transformers_logits(oracle, token_ids)).abs().max() < 1e-4
    with pytest.raises(ModelError, match="scoring_func 'sigmoid' is not supported; supported: 'softmax'"):
        read_config("safetensors", Checkpoint(config | {"scoring_func": "sigmoid"}))
