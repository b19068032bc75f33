"""Recording the final hidden states of all tokens, which an engine computes only where it samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from roseinfer.models.causal_lm import CausalLM


@contextmanager
def recorded_hidden_states(model: CausalLM) -> Iterator[list[Tensor]]:
    """Record the hidden states of all tokens per step, [tokens, hidden_size], in a list that the caller may clear.

    Steps then compute the whole last layer. Steps that replay a CUDA graph are not recorded.
    """
    recorded: list[Tensor] = []
    wanted: list[Tensor | None] = []

    def without_rows(_module: CausalLM, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs, rows = arguments[:4], arguments[4:]
        wanted.append(rows[0] if rows else None)
        return inputs

    def record(_module: CausalLM, _arguments: tuple[Any, ...], hidden: Tensor) -> Tensor:
        recorded.append(hidden)
        rows = wanted.pop()
        return hidden if rows is None else hidden[rows]

    hooks = model.register_forward_pre_hook(without_rows), model.register_forward_hook(record)
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
