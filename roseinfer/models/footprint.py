"""Bytes of a model's weights as they are stored: plain, packed or quantized."""

from typing import Self

import msgspec
import torch
from torch import nn

from roseinfer.models.architectures import architecture
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.embedding import Embedding
from roseinfer.models.experts import ExpertLinear
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig


class WeightBytes(msgspec.Struct, frozen=True):
    """Bytes of a model's weights, grouped by how a step reads them."""

    layers: int
    """Bytes of everything but embeddings, head and experts, norms and biases included. Each step reads them once."""
    head: int
    """Bytes of the output head; those of the embedding's table if the two are tied."""
    lookup: int
    """Bytes looked up per token, summed over token and position embeddings."""
    experts: int = 0
    """Bytes of all experts. A step reads those that its tokens use."""

    @classmethod
    def of(cls, model: CausalLM) -> Self:
        """Count the bytes of a model's modules, packed or not, also on the meta device."""
        owners = {slot.module: None for slot in model.weight_map().values()}
        tables = [module for module in owners if isinstance(module, Embedding)]
        inner = [module for module in owners if module is not model.head and not isinstance(module, Embedding)]
        return cls(
            layers=sum(_own_bytes(module) for module in inner if not isinstance(module, ExpertLinear)),
            head=model.embed.weight_bytes if model.head is None else _own_bytes(model.head),
            lookup=sum(table.row_bytes for table in tables),
            experts=sum(module.nbytes for module in inner if isinstance(module, ExpertLinear)),
        )

    def scaled(self, factor: float) -> Self:
        """Return the bytes of the same weights with elements `factor` times as large."""
        parts = (self.layers, self.head, self.lookup, self.experts)
        return type(self)(*(round(factor * num_bytes) for num_bytes in parts))


def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a model that is not loaded."""
    with torch.device("meta"):
        return sum(view.numel() for view in architecture(config.architecture).build(config).weight_views().values())


def _own_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's own weights, without those of its submodules."""
    if isinstance(module, Linear):
        return module.nbytes
    return sum(parameter.nbytes for parameter in module.parameters(recurse=False))
