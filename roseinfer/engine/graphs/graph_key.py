"""What a graph is captured for."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from roseinfer.engine.request import Request
from roseinfer.kernels.sampling.top_k import WIDEST

Kind = Literal["greedy", "top_k", "all"]
"""How the rows of a graph draw: by the best logit, from the best few (`WIDEST` at most), from any."""


class GraphKey(NamedTuple):
    """A step's size, rounded up, and how it draws."""

    rows: int
    """Requests that decode."""
    kind: Kind
    tokens: int = 0
    """Of a step with prompts beside the decodes, all its tokens; it is captured alone. 0 without prompts."""

    def __str__(self) -> str:
        if self.tokens == 0:
            return f"decode bs={self.rows} {self.kind}"
        return f"mixed bs={self.rows} tokens={self.tokens} {self.kind}"


def kind_of(requests: Iterable[Request]) -> Kind:
    """How the requests draw, all of them."""
    drawn = [request.params for request in requests if request.params.temperature > 0]
    if not drawn:
        return "greedy"
    return "top_k" if all(0 < params.top_k <= WIDEST for params in drawn) else "all"
