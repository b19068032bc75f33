"""Groups of layers that share block tables, so that layers with a sliding window can free blocks before a request ends.

A layer with full attention reads all tokens of a request, a layer with a sliding window only the last ones. So a group
has layers of one kind only, and each request has a block table per group. All groups have the same number of slots for
layers, so that they can allocate blocks of the same size from one pool. vLLM's hybrid KV cache manager groups layers in
the same way (https://docs.vllm.ai/en/latest/design/hybrid_kv_cache_manager.html).
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

_MAX_GROUPS = 8
"""Maximum groups per model, unless there are more different windows: each group has block tables to maintain."""

_USUAL_TOKENS = 8192
"""Length of the request whose blocks `layer_groups` makes as few bytes as possible."""


class LayerPlace(NamedTuple):
    """Place of a layer's keys and values in the KV cache."""

    group: int
    slot: int
    """Index among the layers of a block."""


class LayerGroups(msgspec.Struct, frozen=True):
    """The layers of a model, divided into groups."""

    windows: tuple[int | None, ...]
    """Sliding window of each group's layers. None: no window. Groups without a window come first."""
    num_slots: int
    """Layers per group, and so per block. The last group of a window may have fewer; its other slots are not used."""
    places: tuple[LayerPlace, ...]
    """Place of each layer of the model."""


@lru_cache(maxsize=64)
def layer_groups(windows: tuple[int | None, ...]) -> LayerGroups:
    """Divide layers with these sliding windows, one per layer, into groups.

    The number of slots is the one for which the blocks of a request of 8,192 tokens need the fewest bytes.
    """
    counts = Counter(windows)
    order = sorted(counts, key=lambda window: (window is not None, window or 0))

    def num_groups(slots: int) -> int:
        return sum(-(-count // slots) for count in counts.values())

    def cost(slots: int) -> tuple[int, int]:
        tokens = sum(-(-counts[window] // slots) * min(window or _USUAL_TOKENS, _USUAL_TOKENS) for window in order)
        return slots * tokens, num_groups(slots)

    most = max(_MAX_GROUPS, len(order))
    slots = min((slots for slots in range(1, max(counts.values()) + 1) if num_groups(slots) <= most), key=cost)
    return _divided(windows, order, slots)


def _divided(windows: Sequence[int | None], order: Sequence[int | None], slots: int) -> LayerGroups:
    """Return groups of at most `slots` layers, one window after the other in the given order."""
    places: dict[int, LayerPlace] = {}
    group_windows: list[int | None] = []
    for window in order:
        for number, layer in enumerate(at for at, own in enumerate(windows) if own == window):
            if number % slots == 0:
                group_windows.append(window)
            places[layer] = LayerPlace(len(group_windows) - 1, number % slots)
    return LayerGroups(tuple(group_windows), slots, tuple(places[layer] for layer in range(len(windows))))
