"""Times of an engine's own steps by size, learned while it runs, without importing torch.

A planner uses them to bound how long a step may keep decoding requests waiting. Two figures are learned:

- the time of a decode step, by batch size;
- the time that prompts add to a step, per unit of work, by the amount of work.

The work of prompt tokens is counted in tokens: a token counts as 1 for its matrix products, plus `pair_work` for each
key that it attends to. Sizes are grouped by powers of two. Each group has the median of its newest steps, and ignores
its first step, which may compile kernels or allocate memory.
"""

import math
from collections import deque
from statistics import median

from roseinfer.engine.step_plan import Chunk, StepPlan

_NEWEST = 15
"""Steps per group that a median is over. Up to seven of them may be outliers."""

_EXTRAPOLATED_GROUPS = 3
"""Groups, the largest observed one included, for which the time of the largest observed group holds."""


class StepTimes:
    """Learned times of decode steps and of prompts. Planners of one engine share an object."""

    def __init__(self, pair_work: float = 0.0) -> None:
        """`pair_work` is the work of one query-key pair, over all layers, relative to a token's matrix products."""
        self._pair_work = pair_work
        self._decodes = _Medians()  # seconds per decode step, by batch size
        self._prompts = _Medians()  # seconds per unit of work, by work

    def observe(self, plan: StepPlan, seconds: float) -> None:
        """Learn from a finished step.

        A step with prompts and decodes counts as prompts, less the time of a decode step for its decoding requests, if
        that is known.
        """
        decodes = sum([chunk.is_decode for chunk in plan.chunks])
        if decodes == len(plan.chunks):
            self._decodes.add(decodes, seconds / plan.decode_steps)
            return
        work = sum([self.work(chunk) for chunk in plan.chunks if not chunk.is_decode])
        self._prompts.add(work, max(seconds - (self.decode_s(decodes) or 0.0), 0.0) / work)

    def decode_s(self, batch: int) -> float | None:
        """Return the time of one decode step of `batch` requests; None if no decode step has been observed.

        A batch size that has not been observed counts as the next larger one that has, or else the largest.
        """
        if batch == 0:
            return 0.0
        wanted, known = _group(batch), self._decodes.groups
        found = next((group for group in known if group >= wanted), known[-1] if known else None)
        return None if found is None else self._decodes.of(found)

    def affordable_work(self, seconds: float) -> float | None:
        """Return the prompt work that adds `seconds` to a step; None if no prompts have been observed.

        Small steps take longer per unit of work than large ones, so the largest group that fits decides. Its time per
        unit also holds for sizes up to the next observed group, which is then observed again if it was too slow before.
        Work much larger than any that was observed is approached in several steps.
        """
        known = self._prompts.groups
        if not known:
            return None
        seconds, end = max(seconds, 0.0), known[-1] + _EXTRAPOLATED_GROUPS
        for group in reversed(known):
            work = _quotient(seconds, self._prompts.of(group))
            if work >= 2.0**group:
                return min(work, 1.1 * 2.0**end)  # in the next group also after rounding down to whole tokens
            end = group
        return _quotient(seconds, self._prompts.of(known[0]))

    def work(self, chunk: Chunk) -> float:
        """Return the work of a chunk of a prompt."""
        pairs = chunk.num_tokens * (chunk.start + (chunk.num_tokens + 1) / 2)
        return chunk.num_tokens + self._pair_work * pairs

    def tokens_within(self, work: float, start: int) -> int:
        """Return the largest number of tokens whose work, from position `start` on, is at most `work`."""
        if math.isinf(work) or work <= 0:
            return 0 if work <= 0 else _UNLIMITED
        # The root of pair_work / 2 * n^2 + linear * n - work.
        half, linear = self._pair_work / 2, 1 + self._pair_work * (start + 0.5)
        return int(2 * work / (linear + math.sqrt(linear * linear + 4 * half * work)))


_UNLIMITED = 2**63 - 1


class _Medians:
    """The median of the newest values of each group of sizes."""

    def __init__(self) -> None:
        self._newest: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self.groups: list[int] = []
        """Groups that have a median, in ascending order."""

    def add(self, size: float, value: float) -> None:
        group = _group(size)
        if group not in self._newest:
            self._newest[group] = deque(maxlen=_NEWEST)  # for the values after the first
            return
        self._newest[group].append(value)
        self._medians[group] = median(self._newest[group])
        self.groups = sorted(self._medians)

    def of(self, group: int) -> float:
        return self._medians[group]


def _group(size: float) -> int:
    """Return the group of a size: that of 2^n is n, and holds the sizes up to 2^(n+1)."""
    return int(math.log2(size))


def _quotient(seconds: float, rate: float) -> float:
    return seconds / rate if rate > 0 else math.inf
