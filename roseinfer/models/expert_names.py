"""Names of experts' weights in checkpoints: one tensor per expert, or one tensor that holds all experts.

The weight map has Qwen's names, one tensor per expert: `mlp.experts.<expert>.gate_proj.weight`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from roseinfer.models.dialect import WeightPlace, WeightPlaces
from roseinfer.models.experts_spec import ExpertsSpec

GGUF_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
"""Modules of a sparse layer by llama.cpp's names. The experts of `*_exps` are one tensor."""


@dataclass(frozen=True)
class ExpertRows:
    """Transform that cuts some rows of one expert out of a tensor of all experts, [experts, rows, ...]."""

    expert: int
    num_experts: int
    first: int
    count: int
    rows: int
    """Rows per expert in the stored tensor."""

    def __call__(self, stored: Tensor) -> Tensor:
        """Return [count, ...]. Raises RuntimeError for a tensor of other experts or rows."""
        if stored.dim() < 2 or stored.shape[:2] != (self.num_experts, self.rows):
            raise RuntimeError(f"not {self.num_experts} experts of {self.rows} rows")
        return stored[self.expert, self.first : self.first + self.count]


def expert_places(prefix: str, parts: Mapping[str, int], num_experts: int, kind: str = "weight") -> list[WeightPlace]:
    """Return the places of a tensor [experts, rows, ...] whose rows are those of `parts`, in order.

    `kind` is "weight" or "bias".
    """
    rows, places = sum(parts.values()), list[WeightPlace]()
    for expert in range(num_experts):
        first = 0
        for name, count in parts.items():
            cut = ExpertRows(expert, num_experts, first, count, rows)
            places.append((f"{prefix}.{expert}.{name}.{kind}", cut))
            first += count
    return places


def gguf_expert_places(kind: str, module: str, layer: str, spec: ExpertsSpec, hidden_size: int) -> WeightPlaces:
    """Return the place of a tensor of a sparse layer, by its `kind` and its module's name in the weight map."""
    if module.startswith("mlp.experts."):
        projection = module.removeprefix("mlp.experts.")
        rows = hidden_size if projection == "down_proj" else spec.intermediate_size
        return expert_places(f"{layer}.mlp.experts", {projection: rows}, spec.num_experts, kind)
    return f"{layer}.{module}.{kind}", _as_row if module == "mlp.shared_expert_gate" else None


def _as_row(stored: Tensor) -> Tensor:
    """Return a vector [size] as a matrix [1, size]: llama.cpp stores the shared expert's gate as a vector."""
    return stored.view(1, -1)
