"""Every attention backend agrees with the definition of attention, for any batch."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import fused
from torch import Tensor

from roseinfer.attention import dot_product_attention as dot_product_module
from roseinfer.attention.dot_product_attention import dot_product_attention
from roseinfer.attention.registry import attention_backend
from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import AttentionName
from roseinfer.kernels.attention.attention_spec import AttentionSpec, Scoring

pytestmark = pytest.mark.usefixtures("single_threaded")

HEAD_DIM = 4
NUM_LAYERS = 2

requests = st.tuples(st.integers(0, 40), st.integers(1, 12))
"""Cached tokens and new tokens of a request."""


def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    """Compute attention by definition. q [queries, heads, head_dim] are at the last positions of k."""
    sharing = q.shape[1] // k.shape[1]
    rows = []
    for index in range(len(q)):
        position = len(k) - len(q) + index
        first = 0 if scoring.window is None else max(0, position - scoring.window + 1)
        heads = []
        for head in range(q.shape[1]):
            keys, values = k[first : position + 1, head // sharing], v[first : position + 1, head // sharing]
            scores = keys @ q[index, head] / math.sqrt(HEAD_DIM)
            if scoring.softcap is not None:
                scores = scoring.softcap * (scores / scoring.softcap).tanh()
            heads.append(scores.softmax(dim=0) @ values)
        rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("name", get_args(AttentionName))
@given(
    lengths=st.lists(requests, min_size=1, max_size=5),
    block_size=st.sampled_from([1, 3, 16]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    window=st.one_of(st.none(), st.integers(1, 30)),
    softcap=st.sampled_from([None, 0.4]),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_each_token_attends_to_itself_and_to_all_before_it_in_its_request(
    name: AttentionName,
    lengths: list[tuple[int, int]],
    block_size: int,
    heads: tuple[int, int],
    window: int | None,
    softcap: float | None,
    in_place: bool,
    seed: int,
) -> None:
    generator, scoring = torch.Generator().manual_seed(seed), Scoring(window=window, softcap=softcap)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    num_blocks = sum(-(-(past + new) // block_size) for past, new in lengths) + 1
    kv_heads = heads[1]
    cache = KVCache(
        num_layers=NUM_LAYERS,
        num_blocks=num_blocks,
        block_size=block_size,
        num_kv_heads=kv_heads,
        head_dim=HEAD_DIM,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    cache.data.copy_(random(*cache.data.shape))  # data of earlier requests
    # Adjacent blocks, or random ones.
    numbers = iter(range(1, num_blocks) if in_place else torch.randperm(num_blocks, generator=generator).tolist())
    tables = [[next(numbers) for _ in range(-(-(past + new) // block_size))] for past, new in lengths]

    def slots(request: int, start: int, stop: int) -> Tensor:
        return torch.tensor(
            [tables[request][at // block_size] * block_size + at % block_size for at in range(start, stop)]
        )

    layout = StepLayout(
        query_lens=[new for _, new in lengths],
        context_lens=[past for past, _ in lengths],
        block_tables=tables,
        slots=torch.cat([slots(index, past, past + new) for index, (past, new) in enumerate(lengths)]),
    )
    keys = [[random(past + new, kv_heads, HEAD_DIM) for past, new in lengths] for _ in range(NUM_LAYERS)]
    values = [[random(past + new, kv_heads, HEAD_DIM) for past, new in lengths] for _ in range(NUM_LAYERS)]
    for layer in range(NUM_LAYERS):
        for index, (past, _) in enumerate(lengths):
            where = slots(index, 0, past).to(torch.int64)
            cache.write(layer, where, keys[layer][index][:past], values[layer][index][:past])

    backend = attention_backend(name, cache)
    metadata = backend.prepare(layout, cache)
    for layer in range(NUM_LAYERS):
        queries = [random(new, heads[0], HEAD_DIM) for _, new in lengths]

        def packed(of_requests: list[Tensor]) -> Tensor:
            return torch.cat([x[past:] for x, (past, _) in zip(of_requests, lengths, strict=True)])

        new = (torch.cat(queries), packed(keys[layer]), packed(values[layer]))
        out = backend.attend(fused(*new, scoring=scoring, index=layer), metadata)
        expected = [attend(q, k, v, scoring) for q, k, v in zip(queries, keys[layer], values[layer], strict=True)]
        torch.testing.assert_close(out, torch.cat(expected))
        for index, (past, new) in enumerate(lengths):
            stored = cache.read(layer, torch.tensor(tables[index]))
            torch.testing.assert_close(stored[0][: past + new], keys[layer][index])
            torch.testing.assert_close(stored[1][: past + new], values[layer][index])


@pytest.mark.parametrize("name", get_args(AttentionName))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_engines_dtypes_pass_through(name: AttentionName, dtype: Any) -> None:
    cache = KVCache(
        num_layers=1,
        num_blocks=2,
        block_size=4,
        num_kv_heads=1,
        head_dim=HEAD_DIM,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    layout = StepLayout(
        query_lens=[3, 1], context_lens=[0, 0], block_tables=[[0], [1]], slots=torch.tensor([0, 1, 2, 4])
    )
    backend = attention_backend(name, cache)
    q, k, v = torch.randn(3, 4, 1, HEAD_DIM).to(dtype)
    out = backend.attend(fused(q, k, v), backend.prepare(layout, cache))
    assert out.dtype == dtype
    torch.testing.assert_close(out[3], v[3])  # alone in its request
    torch.testing.assert_close(out[0], v[0])


@pytest.mark.parametrize("rows", [1, 9], ids=["one for all queries", "one per query"])
def test_scores_computed_in_parts_give_what_the_whole_gives(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, softcap=0.4, sinks=True)
    mask, sinks = torch.rand(2, 1, rows, 9) > 0.3, torch.randn(1, 4, rows)
    whole = dot_product_attention(q, k, v, mask, spec, sinks)
    monkeypatch.setattr(dot_product_module, "_MAX_SCORES", 2 * 4 * 9 * 2)  # two queries at once
    torch.testing.assert_close(dot_product_attention(q, k, v, mask, spec, sinks), whole)
