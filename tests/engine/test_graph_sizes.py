"""The graph that fits a step, and when graphs of prompts are captured."""

import pytest

from roseinfer.engine.graph_sizes import MAX_WHOLE_TOKENS, GraphKey, GraphSizes


def test_a_prompt_alone_is_padded_by_at_most_an_eighth() -> None:
    sizes = GraphSizes(8, 64, num_parameters=1)
    for tokens in range(513, MAX_WHOLE_TOKENS + 1):
        key = sizes.whole_key(tokens, ["greedy"])
        assert key is not None
        assert tokens <= key.tokens < max(tokens * 1.25, tokens + 128)
        assert key.tokens <= tokens * 9 / 8 or tokens < 1024
    assert sizes.whole_key(512, ["greedy"]) is None
    assert sizes.whole_key(MAX_WHOLE_TOKENS + 1, ["greedy"]) is None


@pytest.mark.parametrize(("num_parameters", "longest"), [(0, 0), (440_000_000, 4096), (7_000_000_000, 1280)])
def test_large_models_need_no_graphs_of_long_prompts(num_parameters: int, longest: int) -> None:
    assert max([0, *GraphSizes(8, 64, num_parameters=num_parameters).whole_counts]) == longest


def test_decodes_of_long_contexts_have_graphs_of_their_own() -> None:
    sizes = GraphSizes(4, 64, max_context=40960)
    assert sizes.decode_key(3, ["greedy"], 8192) == GraphKey(4, "greedy", context=8192)
    assert sizes.decode_key(3, ["greedy"], 8193) == GraphKey(4, "greedy")
    short = GraphSizes(4, 64, max_context=8192)
    assert short.decode_key(3, ["greedy"], 8192) == GraphKey(4, "greedy")
