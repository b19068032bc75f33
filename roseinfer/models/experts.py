"""The MLP of sparse layers: a router chooses a few of many experts per token (Shazeer et al., 2017).

The variants are those of Mixtral (Jiang et al., 2024, https://arxiv.org/abs/2401.04088) and its successors, which
differ in their `ExpertsSpec`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from roseinfer.kernels.experts.expert_weights import (
    ExpertWeights,
    StackedExperts,
    choose_experts,
    choose_quantized_experts,
)
from roseinfer.kernels.experts.experts_mlp import Biases, experts_mlp
from roseinfer.kernels.experts.routing import Routing, route, route_after_norm
from roseinfer.kernels.linear.form_choice import Packing
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.weight_form import NormBefore
from roseinfer.models.activation_names import ActivationName
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.mlp import GATED, GatedMLP
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, WeightSlot, compose, own_weights
from roseinfer.spans import span


class ExpertsMLP(nn.Module):
    """The weighted sum of each token's experts, plus the shared expert if there is one."""

    def __init__(self, hidden_size: int, spec: ExpertsSpec, activation: ActivationName) -> None:
        super().__init__()
        width = spec.intermediate_size
        self.spec = spec
        self.activation = GATED[activation]
        self.router = Router(hidden_size, spec)
        parts = {"gate_proj": width, "up_proj": width}
        self.gate_up = ExpertLinear(hidden_size, spec.num_experts, parts, bias=spec.bias)
        self.down = ExpertLinear(width, spec.num_experts, {"down_proj": hidden_size}, bias=spec.bias)
        self.shared = GatedMLP(hidden_size, spec.shared_size, activation, bias=False) if spec.shared_size else None
        self.shared_gate = SharedGate(hidden_size) if spec.shared_gate else None
        self.on_choice: Callable[[Tensor], None] | None = None
        """Called with the experts of each token, [tokens, top_k], of steps that no CUDA graph replays."""
        self.is_partial = False
        """True if the result is one rank's summand, which the next norm joins with those of the other ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to x, [tokens, hidden_size]."""
        with span("roseinfer.moe.route"):
            routing = self.router(x)
        return self._with_shared(self._experts(x, routing, None), x)

    def _with_shared(self, out: Tensor, x: Tensor) -> Tensor:
        """Add the shared expert of x, if there is one."""
        if self.shared is None:
            return out
        with span("roseinfer.moe.shared"):
            shared: Tensor = self.shared(x)
            return out + (shared if self.shared_gate is None else shared * self.shared_gate(x))

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply the MLP to norm(hidden + residual). Takes and returns both tensors as `GatedMLP.after_norm` does."""
        if self.is_partial:
            normed, stream = norm.after(hidden, residual)
            return self(normed), stream
        with span("roseinfer.moe.route"):
            normed, stream, routing = self.router.after_norm(norm, hidden, residual)
        if self.shared is None:
            return self._experts(normed, routing, stream), None
        return self._with_shared(self._experts(normed, routing, None), normed), stream

    def _experts(self, x: Tensor, routing: Routing, residual: Tensor | None) -> Tensor:
        """Return the weighted sum of each token's experts, plus the residual."""
        with span("roseinfer.moe.experts"):
            if self.on_choice is not None:
                self.on_choice(routing.experts)
            biases = Biases(self.gate_up.stacked_bias, self.down.stacked_bias)
            forms = self.gate_up.form, self.down.form
            return experts_mlp(x, routing, *forms, self.activation, residual, biases=biases)

    def weight_map(self) -> WeightMap:
        experts = compose({"": self.gate_up}) | compose({"": self.down})
        return compose({"gate": self.router, "shared_expert": self.shared, "shared_expert_gate": self.shared_gate}) | {
            f"experts.{name}": slot for name, slot in experts.items()
        }


class Router(nn.Module):
    """Scores every expert and chooses the best ones. Its weight is never quantized: it is small and decides much."""

    def __init__(self, hidden_size: int, spec: ExpertsSpec) -> None:
        super().__init__()
        self.weight = parameter(spec.num_experts, hidden_size)
        self.bias = parameter(spec.num_experts) if spec.bias else None
        self.spec = spec

    def forward(self, x: Tensor) -> Routing:
        """Return the experts of each token of x, [tokens, hidden_size]."""
        return route(x, self.weight, self.bias, self.spec.top_k, normalized=self.spec.normalized)

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor, Routing]:
        """Return (norm(hidden + residual), hidden + residual, the experts of each token of the first)."""
        settings = self.weight, self.bias, self.spec.top_k
        return route_after_norm(norm, hidden, residual, *settings, normalized=self.spec.normalized)

    def weight_map(self) -> WeightMap:
        return own_weights(self)


class SharedGate(nn.Module):
    """Sigmoid of a score per token, by which the shared expert's output is multiplied (Qwen2-MoE)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = parameter(1, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return [tokens, 1] for x, [tokens, hidden_size]."""
        return torch.sigmoid(x @ self.weight.t())

    def weight_map(self) -> WeightMap:
        return own_weights(self)


class ExpertLinear(nn.Module):
    """One linear layer per expert, y = x W^T + b, with the matrices of all experts below each other.

    A loader fills `weight`. Then `pack` chooses the form in which the experts' matrices are multiplied.
    """

    def __init__(self, in_features: int, num_experts: int, parts: dict[str, int], *, bias: bool = False) -> None:
        """`parts` maps the name of each projection of an expert to its number of outputs, in the order of the rows."""
        super().__init__()
        self.num_experts = num_experts
        self.parts = parts
        self.weight = parameter(num_experts * sum(parts.values()), in_features)
        """The plain matrices, [experts * outputs, in_features]. Empty once another form replaced them."""
        self.bias = parameter(len(self.weight)) if bias else None
        self.unit = math.gcd(*parts.values())
        self.form: ExpertWeights = StackedExperts(self.weight, num_experts)

    def pack(self, packing: Packing = "none") -> None:
        """Choose the form of the loaded matrices. Packed matrices are left unchanged."""
        if self.packed is None:
            self._use(choose_experts(self.weight, self.num_experts, packing, self.unit))

    def pack_quantized(self, quantized: QuantizedWeight) -> None:
        """Pack matrices that the checkpoint stores in 4 bits, [experts * outputs, in_features], with the same codes."""
        self._use(choose_quantized_experts(quantized, self.num_experts, self.unit))

    def _use(self, form: ExpertWeights) -> None:
        self.form = form
        if self.packed is not None:
            self.weight = nn.Parameter(self.weight.new_empty(0, self.weight.shape[1]), requires_grad=False)

    @property
    def packed(self) -> ExpertWeights | None:
        """Form that replaced the plain matrices; None while they are plain."""
        return None if isinstance(self.form, StackedExperts) else self.form

    @property
    def matrix(self) -> Tensor:
        """The plain matrices [experts * outputs, in_features]: the weight itself, or an unpacked copy."""
        return self.form.values(self.weight.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices and biases of all experts."""
        return self.form.nbytes + (0 if self.bias is None else self.bias.nbytes)

    @property
    def stacked_bias(self) -> Tensor | None:
        """The biases, [experts, outputs], or None."""
        return None if self.bias is None else self.bias.view(self.num_experts, -1)

    def weight_map(self) -> WeightMap:
        """Map each expert's `<expert>.<projection>.weight`, and `.bias` if there are biases, to its rows."""
        slots, first_row = {}, 0
        for expert in range(self.num_experts):
            for name, rows in self.parts.items():
                slots[f"{expert}.{name}.weight"] = WeightSlot(self, "matrix", first_row, rows)
                if self.bias is not None:
                    slots[f"{expert}.{name}.bias"] = WeightSlot(self, "bias", first_row, rows)
                first_row += rows
        return slots
