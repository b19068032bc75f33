"""The step layout as the paged kernels read it: block tables, lengths and query starts on the device."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from torch import Tensor

from roseinfer.attention.dense_layouts import DenseParts, dense_parts
from roseinfer.attention.step_layouts import DecodeLayout, DensePrompts, MixedLayout, PromptLayout, StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.runtime import next_power_of_two
from roseinfer.upload import upload

_MIN_TABLE_WIDTH = 16


def kernel_layout(layout: StepLayout, cache: KVCache, *, dense: bool = False) -> MixedLayout | DecodeLayout:
    """Upload the layout in one copy. A step of decodes alone becomes a DecodeLayout.

    With `dense`, long prompts and chunks are also described as `DensePrompts`.
    """
    # One-token requests after a longer one count as prompts: the prefill kernel takes any length, and each of the two
    # groups stays a slice of the packed tokens. Schedulers put running requests first, so such requests are rare.
    query_lens = np.array(layout.query_lens, dtype=np.int32)
    longer = np.flatnonzero(query_lens > 1)
    count = int(longer[0]) if len(longer) else len(query_lens)
    context_lens = query_lens + np.array(layout.context_lens, dtype=np.int32)
    starts = np.full(len(query_lens) - count + 1, count, dtype=np.int32)
    starts[1:] += query_lens[count:].cumsum(dtype=np.int32)
    order = np.argsort(-context_lens[:count], kind="stable").astype(np.int32)
    parts = dense_parts(layout, count, cache.block_size) if dense else None
    rest = (
        ()
        if parts is None or not parts.sources
        else (
            padded_tables([layout.block_tables[at] for at in parts.sources]),
            parts.context_lens,
            parts.query_starts,
            parts.first_keys,
        )
    )
    last = list(layout.last or ()) if len(longer) else []
    (
        decode_tables,
        decode_lens,
        decode_order,
        prompt_tables,
        prompt_lens,
        query_starts,
        last_tables,
        last_lens,
        *rest_on_device,
    ) = upload(
        layout.slots.device,
        padded_tables(layout.block_tables[:count]),
        context_lens[:count],
        order,
        padded_tables(layout.block_tables[count:]),
        context_lens[count:],
        starts,
        padded_tables([layout.block_tables[at] for at in last]),
        context_lens[last],
        *rest,
    )
    if len(longer) == 0:
        return DecodeLayout(cache, decode_tables, decode_lens, decode_order, layout.slots)
    decodes = DecodeLayout(cache, decode_tables, decode_lens, decode_order) if count else None
    longest = int(query_lens.max())
    described = None if parts is None else _dense_prompts(parts, rest_on_device, longest)
    prompts = PromptLayout(prompt_tables, prompt_lens, query_starts, longest, described)
    last_tokens = None if layout.last is None else DecodeLayout(cache, last_tables, last_lens)
    return MixedLayout(cache, layout.slots, decodes, prompts, last_tokens)


def _dense_prompts(parts: DenseParts, rest: Sequence[Tensor], longest: int) -> DensePrompts:
    if not rest:
        return DensePrompts(parts.runs, None)
    tables, context_lens, query_starts, first_keys = rest
    return DensePrompts(
        parts.runs,
        PromptLayout(tables, context_lens, query_starts, longest),
        parts.pasts,
        first_keys if parts.pasts else None,
    )


def padded_tables(tables: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Return block tables as one array [requests, blocks], padded with block 0.

    The width is a power of two: a Triton kernel is compiled once per class of widths, so few classes are better.
    """
    counts = np.array([len(table) for table in tables], dtype=np.int64)
    width = next_power_of_two(max([_MIN_TABLE_WIDTH, *counts.tolist()]))
    padded = np.zeros((len(tables), width), dtype=np.int32)
    padded[np.arange(width) < counts[:, None]] = np.fromiter(chain.from_iterable(tables), np.int32, counts.sum())
    return padded
