"""Times of an engine's own steps by size, learned while it runs, without importing torch.

A planner uses them to bound how long a step may keep decoding requests waiting. Two figures are learned:

- the time of a decode step, by batch size;
- the time that prompts add to a step, per unit of work, by the step's tokens.

The work of prompt tokens is counted in tokens: a token counts as 1 for its matrix products, plus `pair_work` for each
key that it attends to. Sizes are grouped by powers of two. Each group has the median of its newest steps, and ignores
its first step, which may compile kernels or allocate memory.
"""

import math
from collections import deque
from statistics import median
from typing import NamedTuple

from roseinfer.engine.step_plan import Chunk, StepPlan

_NEWEST = 15
"""Steps per group that a median is over. Up to seven of them may be outliers."""

_EXTRAPOLATED_GROUPS = 2
"""Groups beyond the largest observed one for which its time per unit holds."""

_STEPS_PER_TRIAL = (16, 256)
"""Steps until a group whose times seemed too long is observed again: if it was observed rarely, and often."""

_OFTEN = 3
"""Steps of a group from which on it counts as observed often."""

_FASTER = 0.7
"""Share of a group's median below which two times in a row replace all older ones: the device has become faster."""

_TOLERANCE = 1.1
"""Factor by which steps of a larger group may take longer per unit of prompt work than the fastest ones."""

_UNLIMITED = 2**63 - 1


class PromptLimit(NamedTuple):
    """Limits of the prompts of one step."""

    work: float
    tokens: int


class StepTimes:
    """Learned times of decode steps and of prompts. Planners of one engine share an object."""

    def __init__(self, pair_work: float = 0.0) -> None:
        """`pair_work` is the work of one query-key pair, over all layers, relative to a token's matrix products."""
        self._pair_work = pair_work
        self._decodes = _Medians()  # seconds per decode step, by batch size
        self._prompts = _Medians()  # seconds per unit of work, by the step's tokens
        self._num_observed = 0

    def observe(self, plan: StepPlan, seconds: float) -> None:
        """Learn from a finished step.

        A step with prompts and decodes counts as prompts, less the time of a decode step for its decoding requests, if
        that is known.
        """
        self._num_observed += 1
        decodes = sum([chunk.is_decode for chunk in plan.chunks])
        if decodes == len(plan.chunks):
            self._decodes.add(decodes, seconds / plan.decode_steps)
            return
        work = sum([self.work(chunk) for chunk in plan.chunks if not chunk.is_decode])
        self._prompts.add(plan.num_tokens, max(seconds - (self.decode_s(decodes) or 0.0), 0.0) / work)

    def decode_s(self, batch: int) -> float | None:
        """Return the time of one decode step of `batch` requests; None if no decode step has been observed.

        A batch size that has not been observed counts as the next larger one that has, or else the largest.
        """
        if batch == 0:
            return 0.0
        wanted, known = _group(batch), self._decodes.groups
        found = next((group for group in known if group >= wanted), known[-1] if known else None)
        return None if found is None else self._decodes.of(found)

    def prompt_limit(self, seconds: float, decodes: int, start: int) -> PromptLimit | None:
        """Return limits of prompts that add at most `seconds` to a step with `decodes` decoding requests.

        `start` is the position of the first prompt token. Returns None if no prompts have been observed.

        Of the groups that fit, the largest decides whose steps take close to the least time per unit of work, decodes
        included: steps that are too large for a CUDA graph may take longer than several smaller ones. Now and then, the
        answer reaches into the next group, in case its times are outdated. Steps much larger than any that was observed
        are approached gradually.
        """
        known = self._prompts.groups
        if not known:
            return None
        seconds, decode_s = max(seconds, 0.0), self.decode_s(decodes) or 0.0
        found, least_s = PromptLimit(_quotient(seconds, self._prompts.of(known[0])), _UNLIMITED), math.inf
        for group, after in zip(known, [*known[1:], known[-1] + _EXTRAPOLATED_GROUPS + 1], strict=True):
            unit_s = self._prompts.of(group)
            work, most = _quotient(seconds, unit_s), max(_most(after - 1) - decodes, 1)
            tokens = min(self.tokens_within(work, start), most)
            if tokens == 0 or tokens + decodes <= _most(group - 1):
                continue
            step_s = unit_s + decode_s / self._work(tokens, start)
            if step_s <= _TOLERANCE * least_s:
                is_trial = self._num_observed % _STEPS_PER_TRIAL[self._prompts.count(after) >= _OFTEN] == 0
                found = PromptLimit(work, most + is_trial)
            least_s = min(step_s, least_s)
        return found

    def work(self, chunk: Chunk) -> float:
        """Return the work of a chunk of a prompt."""
        return self._work(chunk.num_tokens, chunk.start)

    def tokens_within(self, work: float, start: int) -> int:
        """Return the largest number of tokens whose work, from position `start` on, is at most `work`."""
        if math.isinf(work) or work <= 0:
            return _UNLIMITED if work > 0 else 0
        # The root of pair_work / 2 * n^2 + linear * n - work.
        half, linear = self._pair_work / 2, 1 + self._pair_work * (start + 0.5)
        return int(2 * work / (linear + math.sqrt(linear * linear + 4 * half * work)))

    def _work(self, tokens: int, start: int) -> float:
        return tokens + self._pair_work * tokens * (start + (tokens + 1) / 2)


class _Medians:
    """The median of the newest values of each group of sizes."""

    def __init__(self) -> None:
        self._newest: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self.groups: list[int] = []
        """Groups that have a median, in ascending order."""

    def add(self, size: int, value: float) -> None:
        group = _group(size)
        if group not in self._newest:
            self._newest[group] = deque(maxlen=_NEWEST)  # for the values after the first
            return
        newest = self._newest[group]
        if newest and max(newest[-1], value) < _FASTER * self._medians[group]:
            newest = self._newest[group] = deque([newest[-1]], maxlen=_NEWEST)
        newest.append(value)
        self._medians[group] = median(newest)
        self.groups = sorted(self._medians)

    def of(self, group: int) -> float:
        return self._medians[group]

    def count(self, group: int) -> int:
        """Return the number of values that the group's median is over; 0 if it has none."""
        return len(self._newest.get(group, ()))


def _group(size: int) -> int:
    """Return the group of a size: group n has the sizes above 2^(n-1), up to 2^n."""
    return (size - 1).bit_length()


def _most(group: int) -> int:
    """Return the largest size of a group."""
    return 1 << max(group, 0)


def _quotient(seconds: float, rate: float) -> float:
    return seconds / rate if rate > 0 else math.inf
