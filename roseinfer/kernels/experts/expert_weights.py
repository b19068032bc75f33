"""Weight forms of experts: the matrices of all experts of a layer, as their kernels read them."""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from roseinfer.kernels.cpu.native_experts import weight_table
from roseinfer.kernels.cpu.native_matmul import WeightStruct
from roseinfer.kernels.linear.form_choice import Packing, choose_form, choose_quantized_form
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.linear.plain_weight import PlainWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.weight_form import WeightForm


class ExpertWeights(ABC):
    """One matrix W [outputs, size] per expert."""

    num_experts: int
    """Number of matrices."""

    @abstractmethod
    def expert(self, index: int) -> WeightForm:
        """Return the matrix of one expert."""

    @abstractmethod
    def values(self, dtype: torch.dtype) -> Tensor:
        """Return all matrices below each other, [experts * outputs, size]: the weight itself, or a copy."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all matrices, scales included."""


class StackedExperts(ExpertWeights):
    """Plain matrices below each other, [experts * outputs, size]. They share the parameter's memory."""

    def __init__(self, weight: Tensor, num_experts: int) -> None:
        self.weight = weight
        self.num_experts = num_experts
        self.stacked = weight.view(num_experts, -1, weight.shape[1])
        """The matrices, [experts, outputs, size]."""

    def expert(self, index: int) -> PlainWeight:
        return PlainWeight(self.stacked[index])

    def values(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class SeparateExperts(ExpertWeights):
    """A weight form per expert."""

    def __init__(self, forms: Sequence[WeightForm]) -> None:
        self.forms = tuple(forms)
        self.num_experts = len(self.forms)

    def expert(self, index: int) -> WeightForm:
        return self.forms[index]

    def values(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([form.values(dtype) for form in self.forms])

    @property
    def nbytes(self) -> int:
        return sum(form.nbytes for form in self.forms)

    @cached_property
    def native_table(self) -> "ctypes.Array[WeightStruct] | None":
        """The weights as an array for the compiled kernels, if all of them are packed for these."""
        forms = [form for form in self.forms if isinstance(form, NativeWeight)]
        return weight_table([form.struct(None) for form in forms]) if len(forms) == len(self.forms) else None


def choose_experts(weight: Tensor, num_experts: int, packing: Packing, unit: int) -> ExpertWeights:
    """Return the fastest form of loaded matrices [experts * outputs, size], as `choose_form` does for one matrix."""
    stacked = StackedExperts(weight, num_experts)
    if weight.device.type != "cpu":
        return stacked
    forms = [choose_form(matrix, packing, unit) for matrix in stacked.stacked]
    return stacked if isinstance(forms[0], PlainWeight) else SeparateExperts(forms)


def choose_quantized_experts(quantized: QuantizedWeight, num_experts: int, unit: int) -> SeparateExperts:
    """Return the fastest form of matrices [experts * outputs, size] that are already quantized to 4 bits."""
    return SeparateExperts([choose_quantized_form(part, unit) for part in quantized.split(num_experts)])
