"""Linear layers over packed tokens: the first dimension of every input runs over the tokens of the step."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.linear.form_choice import Packing, choose_form, choose_quantized_form, plain_form
from roseinfer.kernels.linear.plain_weight import PlainWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.weight_form import NormBefore, WeightForm
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, WeightSlot


class Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features].

    A loader fills `weight`. Then `pack` chooses the weight form that multiplies by it.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, stored_transposed: bool = False) -> None:
        """`stored_transposed`: True if checkpoints hold the matrix as [in_features, out_features]."""
        super().__init__()
        self.weight = parameter(out_features, in_features)
        """The plain matrix, [out_features, in_features]. Empty, [0, in_features], once a packed form replaced it."""
        self.bias = parameter(out_features) if bias else None
        self.unit = out_features
        """Common divisor of the projections' numbers of outputs, so that packs of outputs need not span projections."""
        self.stored_transposed = stored_transposed
        self.is_partial = False
        """True if the result is one rank's summand, which the next norm joins with those of the other ranks."""
        self.form: WeightForm = plain_form(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.form.linear(x, self.bias)

    def linear(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """Return activation(x W^T + b)."""
        return self.form.linear(x, self.bias, activation)

    def after_norm(
        self, norm: NormBefore, hidden: Tensor, residual: Tensor | None, activation: Activation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return activation(norm(stream) W^T + b) and the stream, which is hidden + residual.

        If residual is None, hidden already is the stream. A GPU may compute all of this in one kernel for few rows.
        """
        return self.form.after_norm(norm, hidden, residual, self.bias, activation)

    def onto(self, x: Tensor, stream: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (x W^T + b, stream), for the next norm to add; or (their sum, None) if one kernel computes the sum."""
        if self.is_partial:
            return self.form.linear(x, self.bias), stream
        return self.form.onto(x, stream, self.bias)

    def tail(self, outputs: int) -> Callable[[Tensor], Tensor] | None:
        """Return the layer's last `outputs` outputs as a function of its input. None if the weight is packed."""
        form = self.form.tail(outputs)
        bias = None if self.bias is None else self.bias[-outputs:]
        return None if form is None else lambda x: form.linear(x, bias)

    def pack(self, packing: Packing = "none") -> None:
        """Choose the weight form of the loaded matrix. A packed matrix is left unchanged."""
        if self.packed is None:
            self._use(choose_form(self.weight, packing, self.unit))

    def pack_quantized(self, quantized: QuantizedWeight) -> None:
        """Pack a weight that the checkpoint stores in 4 bits, with the same codes."""
        self._use(choose_quantized_form(quantized, self.unit))

    def _use(self, form: WeightForm) -> None:
        self.form = form
        if self.packed is not None:
            self.weight = nn.Parameter(self.weight.new_empty(0, self.weight.shape[1]), requires_grad=False)

    @property
    def packed(self) -> WeightForm | None:
        """Weight form that replaced the plain matrix; None while the matrix is plain."""
        return None if isinstance(self.form, PlainWeight) else self.form

    @property
    def matrix(self) -> Tensor:
        """The weight as a plain matrix [out_features, in_features]: the weight itself, or an unpacked copy."""
        return self.form.values(self.weight.dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight that one matrix product reads, without the bias."""
        return self.form.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias that one matrix product reads."""
        return self.form.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def weight_map(self) -> WeightMap:
        """Map the checkpoint tensors `weight` and, if there is one, `bias` to this layer's parameters."""
        slots = {"weight": WeightSlot(self, "matrix", transposed=self.stored_transposed)}
        if self.bias is not None:
            slots["bias"] = WeightSlot(self, "bias")
        return slots


class FusedLinear(Linear):
    """Several projections of one input as one matrix product."""

    def __init__(self, in_features: int, parts: dict[str, int], *, bias: bool, stored_as: str | None = None) -> None:
        """`parts` maps the name of each projection to its number of outputs, in the order of the matrix's rows.

        `stored_as` is the name of the tensor that holds all projections in checkpoints; None: each has its own.
        """
        super().__init__(in_features, sum(parts.values()), bias=bias)
        self.parts = parts if stored_as is None else {stored_as: sum(parts.values())}
        self.unit = math.gcd(*parts.values())

    def weight_map(self) -> WeightMap:
        """Map each projection's `<name>.weight`, and `<name>.bias` if there are biases, to rows of the fused matrix."""
        slots, first_row = {}, 0
        for name, rows in self.parts.items():
            slots[f"{name}.weight"] = WeightSlot(self, "matrix", first_row, rows)
            if self.bias is not None:
                slots[f"{name}.bias"] = WeightSlot(self, "bias", first_row, rows)
            first_row += rows
        return slots
