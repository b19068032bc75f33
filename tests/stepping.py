"""Run an engine's scheduler step by step, recording the logits of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.prompt import Prompt


@dataclass
class Traced:
    """Token ids of one request, prompt and completion, and the logits after each token but the last."""

    token_ids: list[int]
    logits: Tensor  # [tokens - 1, vocab_size]


def run_traced(
    engine: Engine, prompts: Sequence[Prompt], params: SamplingParams, mode: Mode = "online"
) -> list[Traced]:
    """Run all prompts together; return the logits of every position that a step computed."""
    model = engine.runner.model
    packed: list[Tensor] = []
    forward = model.forward

    def recording(*step: Any) -> Tensor:
        """Run a step for all of its tokens, too: the engine needs the hidden states of some."""
        *inputs, some = step if len(step) == 5 else (*step, None)
        hidden: Tensor = forward(*inputs)
        packed.append(hidden)
        if some is None:
            return hidden
        torch.testing.assert_close(forward(*step), hidden[some], rtol=1e-4, atol=1e-4)
        return hidden[some]

    model.forward = recording  # type: ignore[method-assign]
    rows: dict[int, dict[int, Tensor]] = {}
    scheduler = engine.scheduler(mode)
    for prompt in prompts:
        rows[scheduler.submit(prompt, params)] = {}
    with torch.inference_mode():
        while scheduler.has_unfinished:
            packed.clear()
            scheduler.step()
            assert scheduler.last_plan is not None
            logits = iter(model.logits(packed[0]))
            for chunk in scheduler.last_plan.chunks:
                for position in range(chunk.start, chunk.stop):
                    rows[chunk.request.id][position] = next(logits)
    del model.forward
    traced = []
    for output in scheduler.run():
        token_ids = output.prompt_token_ids + output.token_ids
        of_request = rows[output.request_id]
        assert sorted(of_request) == list(range(len(token_ids) - 1)), "each position but the last is computed"
        traced.append(Traced(token_ids, torch.stack([of_request[at] for at in range(len(token_ids) - 1)])))
    return traced
