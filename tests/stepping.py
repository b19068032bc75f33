"""Run an engine's scheduler step by step, recording the logits of every token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.prompt import Prompt
from roseinfer.models.hidden_states import recorded_hidden_states


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
    rows: dict[int, dict[int, Tensor]] = {}
    scheduler = engine.scheduler(mode)
    for prompt in prompts:
        rows[scheduler.submit(prompt, params)] = {}
    with torch.inference_mode(), recorded_hidden_states(model) as recorded:
        while scheduler.has_unfinished:
            recorded.clear()
            scheduler.step()
            assert scheduler.last_plan is not None
            logits = iter(model.logits(recorded[0]))
            for chunk in scheduler.last_plan.chunks:
                for position in range(chunk.start, chunk.stop):
                    rows[chunk.request.id][position] = next(logits)
    traced = []
    for output in scheduler.run():
        token_ids = output.prompt_token_ids + output.token_ids
        of_request = rows[output.request_id]
        assert sorted(of_request) == list(range(len(token_ids) - 1)), "each position but the last is computed"
        traced.append(Traced(token_ids, torch.stack([of_request[at] for at in range(len(token_ids) - 1)])))
    return traced
