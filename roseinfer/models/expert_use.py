"""How often the routers of a model choose each expert, counted on some tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from roseinfer.models.experts import ExpertsMLP


class ExpertBalance(msgspec.Struct, frozen=True, kw_only=True):
    """How evenly the tokens of a run used the experts of the model's layers."""

    tokens: int
    """Tokens whose choices were counted, in every layer with experts."""
    busiest: float
    """Tokens of a layer's most chosen expert divided by the mean over its experts, as a mean over layers.

    1 if all experts are chosen equally often.
    """
    unused_percent: float
    """Experts that none of the tokens chose, in percent of the experts of all layers."""


class ExpertUse:
    """Shares of tokens that choose each expert; unknown until `learn` is called."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] | None = None
        self._tokens = 0
        self._hits: dict[float, tuple[float, ...]] = {}

    def learn(self, counts: npt.NDArray[np.int64], tokens: int) -> None:
        """Replace what is known by the choices of `tokens` tokens: counts [layers with experts, experts]."""
        self._counts, self._tokens, self._hits = counts, tokens, {}

    @property
    def balance(self) -> ExpertBalance | None:
        """Summary of the counted choices; None if they are unknown."""
        if self._counts is None:
            return None
        return ExpertBalance(
            tokens=self._tokens,
            busiest=float((self._counts.max(axis=1) / self._counts.mean(axis=1)).mean()),
            unused_percent=100.0 * float((self._counts == 0).mean()),
        )

    def expected_hits(self, num_tokens: float) -> tuple[float, ...] | None:
        """Return how many distinct experts of each layer `num_tokens` tokens use, as expected; None if unknown.

        Each token chooses an expert with its counted share, independently of the other tokens.
        """
        if self._counts is None:
            return None
        if num_tokens not in self._hits:
            missed = (1.0 - self._counts / self._tokens) ** num_tokens
            self._hits[num_tokens] = tuple((1.0 - missed).sum(axis=1).tolist())
        return self._hits[num_tokens]


@contextmanager
def counted_choices(model: nn.Module) -> Iterator[npt.NDArray[np.int64]]:
    """Count the choices of experts of all steps inside the context: [layers with experts, experts].

    Steps that replay a CUDA graph are not counted. Each step waits for the device.
    """
    layers = [module for module in model.modules() if isinstance(module, ExpertsMLP)]
    counts = np.zeros((len(layers), layers[0].spec.num_experts if layers else 0), dtype=np.int64)

    def counter(row: npt.NDArray[np.int64]) -> Callable[[Tensor], None]:
        def count(experts: Tensor) -> None:
            row[:] += np.bincount(experts.flatten().cpu().numpy(), minlength=len(row))

        return count

    for layer, row in zip(layers, counts, strict=True):
        layer.on_choice = counter(row)
    try:
        yield counts
    finally:
        for layer in layers:
            layer.on_choice = None
