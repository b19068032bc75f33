"""Number the distinct names of activities, so that pieces of time are grouped by one small number."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.host_activity import Activity
from roseinfer.trace.facts.intervals import stable_order
from roseinfer.trace.reading.columns import Ints, Ints32

_BLOCK = 1 << 17
"""Number of activities labelled together."""
NO_LABEL = 0
"""Label of time in which a thread is in no activity."""


class ActivityLabels(msgspec.Struct, frozen=True, eq=False):
    """Labels of activities: operators by name, runtime calls by name and by the operator around them.

    Arrays but `of_activity` have one entry per label. The first entry is that of no activity.
    """

    of_activity: Ints32
    """Per activity: its label."""
    name: Ints
    """Index into `trace.names`, -1 for none."""
    around: Ints
    """Name of the innermost operator around a runtime call, -1 for none and for operators."""
    is_call: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.name)

    def at(self, owner: Ints | Ints32) -> Ints32:
        """Return the label of each activity, and NO_LABEL for -1."""
        if len(self.of_activity) == 0:
            return np.full(len(owner), NO_LABEL, np.int32)
        return np.where(owner >= 0, self.of_activity[owner], NO_LABEL).astype(np.int32)


def label_activities(activity: Activity, num_names: int) -> ActivityLabels:
    """Label all activities, block by block to bound the memory for intermediate arrays."""
    size = len(activity.name)
    label = np.empty(size, np.int32)
    numbers: dict[tuple[int, int, bool], int] = {(-1, -1, False): NO_LABEL}
    for low in range(0, size, _BLOCK):
        block = slice(low, low + _BLOCK)
        name, is_call = activity.name[block].astype(np.int64), activity.call[block] >= 0
        around = np.where(is_call, activity.operators_around(block), -1).astype(np.int64)
        key = (name * 2 + is_call) * (num_names + 1) + around + 1
        order = stable_order(key)
        ordered = key[order]
        fresh = np.ones(len(key), np.bool_)
        fresh[1:] = ordered[1:] != ordered[:-1]
        first = order[fresh]
        found = zip(name[first].tolist(), around[first].tolist(), is_call[first].tolist(), strict=True)
        known = np.array([numbers.setdefault(one, len(numbers)) for one in found], np.int32)
        label[low + order] = known[np.cumsum(fresh) - 1]
    columns = zip(*numbers, strict=True)
    names, arounds, calls = (list(column) for column in columns)
    return ActivityLabels(
        of_activity=label,
        name=np.array(names, np.int64),
        around=np.array(arounds, np.int64),
        is_call=np.array(calls, np.bool_),
    )
