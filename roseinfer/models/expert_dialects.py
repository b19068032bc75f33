"""Parts of the Hugging Face dialects of models with experts: fields of config.json, and names of weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roseinfer.models.decoder_dialects import hf_weight
from roseinfer.models.dialect import WeightPlaces
from roseinfer.models.expert_names import expert_places
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig

_LAYER = re.compile(r"(model\.layers\.\d+\.)(?:mlp|block_sparse_moe)\.(.+)")
_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_RENAMED = {"router.weight": "gate.weight", "router.layer.weight": "gate.weight", "router.bias": "gate.bias"}
_GATE_UP = ("experts.gate_up_proj", "input_linear.weight")
_DOWN = ("experts.down_proj", "output_linear.weight")


def qwen_experts(raw: Mapping[str, Any], **changes: Any) -> ExpertsSpec | None:
    """Return the experts that a config.json with Qwen's field names describes; None: every layer has an MLP.

    `changes` are fields of the spec that the file does not contain. Missing fields are required, since the defaults
    of transformers are those of one model.
    """
    num_layers, num_experts = size(raw, "num_hidden_layers"), optional(raw, "num_experts", int, 0)
    num_experts = num_experts or optional(raw, "num_local_experts", int, 0)
    step = size(raw, "decoder_sparse_step", 1)
    only_mlp = set(optional(raw, "mlp_only_layers", list, []))
    dense = tuple(index for index in range(num_layers) if (index + 1) % step or index in only_mlp)
    if not num_experts or len(dense) == num_layers:
        return None
    fields: dict[str, Any] = {
        "num_experts": num_experts,
        "top_k": size(raw, "num_experts_per_tok"),
        "intermediate_size": size(raw, "moe_intermediate_size"),
        "normalized": optional(raw, "norm_topk_prob", bool, False),
        "dense_layers": dense,
    }
    return ExpertsSpec(**fields | changes)


def mixtral_experts(raw: Mapping[str, Any], **changes: Any) -> ExpertsSpec:
    """Return the experts that a config.json with Mixtral's field names describes. `changes` are as in `qwen_experts`.

    Such models have experts in every layer. They normalize the weights of a token's experts.
    """
    fields: dict[str, Any] = {
        "num_experts": size(raw, "num_local_experts", 8),
        "top_k": size(raw, "num_experts_per_tok", 2),
        "intermediate_size": size(raw, "intermediate_size"),
    }
    return ExpertsSpec(**fields | changes)


@dataclass(frozen=True)
class Rows:
    """Transform that cuts rows out of a matrix of two fused projections."""

    first: int
    count: int
    rows: int
    """Rows of the stored matrix."""

    def __call__(self, stored: Tensor) -> Tensor:
        """Return [count, size]. Raises RuntimeError for a matrix of another number of rows."""
        if len(stored) != self.rows:
            raise RuntimeError(f"not {self.rows} rows")
        return stored[self.first : self.first + self.count]


def moe_hf_weight(name: str, config: ModelConfig) -> WeightPlaces | None:
    """Return the place of a stored tensor under any of the names that models with experts have."""
    spec, found = config.experts, _LAYER.fullmatch(name)
    if spec is None or found is None:
        return hf_weight(name, config)
    layer, rest = found[1] + "mlp.", found[2]
    width = spec.intermediate_size
    if rest in _GATE_UP:
        return expert_places(f"{layer}experts", {"gate_proj": width, "up_proj": width}, spec.num_experts)
    if rest in _DOWN:
        return expert_places(f"{layer}experts", {"down_proj": config.hidden_size}, spec.num_experts)
    module, _, kind = rest.rpartition(".")
    parent, _, last = module.rpartition(".")
    if last in _MIXTRAL:
        return f"{layer}{parent}.{_MIXTRAL[last]}.{kind}", None
    return layer + _RENAMED.get(rest, rest), None


def shared_mlp_places(name: str, spec: ExpertsSpec) -> WeightPlaces | None:
    """Return the places of a tensor of Granite's shared expert, `<layer>.shared_mlp.*`; None for another tensor."""
    layer, separator, rest = name.partition("shared_mlp.")
    target = f"{layer}mlp.shared_expert"
    if not separator:
        return None
    if rest == "input_linear.weight":
        size = spec.shared_size
        parts = ("gate_proj", "up_proj")
        return [(f"{target}.{part}.weight", Rows(at * size, size, 2 * size)) for at, part in enumerate(parts)]
    return (f"{target}.down_proj.weight" if rest == "output_linear.weight" else name), None
