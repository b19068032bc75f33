"""Count how often a run's tokens choose each expert, outside the timed passes."""

from collections.abc import Sequence

from roseinfer.config import SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.outputs import RequestOutput
from roseinfer.models.expert_use import counted_choices
from roseinfer.models.hidden_states import recorded_hidden_states

_MOST_TOKENS = 512
"""Maximum tokens to count: a CPU computes so many prompt tokens in seconds."""
_TOKENS_EACH = 128
"""Maximum tokens of one output: its last ones."""


def count_choices(engine: Engine, outputs: Sequence[RequestOutput]) -> None:
    """Compute the tokens of some outputs again, as prompts, and let `engine.expert_use` learn their experts.

    Decode steps are replays of CUDA graphs, which could count only by doing more work. The prefix cache is emptied
    before and after. Does nothing for a model without experts, or if several ranks divide it.
    """
    if engine.model_config.experts is None or engine.config.tensor_parallel > 1:
        return
    prompts, left = [], _MOST_TOKENS
    for output in outputs:
        # One token less than the engine has just held, since each prompt needs a completion token.
        tokens = [*output.prompt_token_ids, *output.token_ids][1:][-_TOKENS_EACH:][:left]
        if tokens:
            prompts.append(tokens)
            left -= len(tokens)
    if not prompts:
        return
    runner = engine.runner
    graphs, runner.graphs = runner.graphs, None
    engine.pool.reset_prefix_cache()
    try:
        # Recorded hidden states make the last layer compute, and count, all tokens.
        with recorded_hidden_states(runner.model), counted_choices(runner.model) as counts:
            engine.generate(prompts, SamplingParams(max_new_tokens=1, temperature=0.0))
    finally:
        runner.graphs = graphs
        engine.pool.reset_prefix_cache()
    engine.expert_use.learn(counts, int(counts[0].sum()) // engine.model_config.experts.top_k)
