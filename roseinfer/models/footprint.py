"""What a model's weights weigh, in the form in which they are kept."""

from typing import Self

import msgspec
from torch import nn

from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear


class WeightBytes(msgspec.Struct, frozen=True):
    """Bytes that a step reads, by what it does with them."""

    layers: int
    """Between the embedding and the head, norms and biases included."""
    head: int
    """The embedding's table again, where they are tied."""
    lookup: int
    """For each token, over all tables."""

    @classmethod
    def of(cls, model: CausalLM) -> Self:
        """Count the bytes of a model's modules, packed or not, loaded or built without memory."""
        owners = {slot.module: None for slot in model.weight_map().values()}
        tables = [module for module in owners if isinstance(module, Embedding)]
        inner = [module for module in owners if module is not model.head and not isinstance(module, Embedding)]
        return cls(
            layers=sum(map(_own_bytes, inner)),
            head=model.embed.weight_bytes if model.head is None else _own_bytes(model.head),
            lookup=sum(table.row_bytes for table in tables),
        )

    def scaled(self, factor: float) -> Self:
        """The same weights at another number of bytes an element."""
        return type(self)(*(round(factor * num_bytes) for num_bytes in (self.layers, self.head, self.lookup)))


def _own_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's own weights, without those of its submodules."""
    if isinstance(module, Linear):
        return module.nbytes
    return sum(parameter.nbytes for parameter in module.parameters(recurse=False))
