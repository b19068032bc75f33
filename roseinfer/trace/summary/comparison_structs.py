"""Structs of the comparison of a trace with a baseline trace, and of the costs per step that are compared."""

from typing import Literal

import msgspec

from roseinfer.notebook import notebook_html, short_repr
from roseinfer.trace.summary.budget_structs import TimeBudget


class SpanCost(msgspec.Struct, frozen=True):
    """Mean cost per step of all spans of one name, including their inner spans, on the ranks that have them."""

    wall_ms: float
    gpu_events: float


class StepCost(msgspec.Struct, frozen=True):
    """GPU time per step."""

    ms: float
    """Mean over the steps."""
    std_ms: float
    """Sample standard deviation over steps of the same work, over all if no two have it; 0 for a single step."""


class PhaseCosts(msgspec.Struct, frozen=True):
    """Mean costs per step of one phase, by name of span, operator or kernel."""

    spans: dict[str, SpanCost]
    operators: dict[str, float]
    """Self time on the CPU per step, in ms."""
    kernels: dict[str, float]
    """Time of the GPU events launched per step, in ms."""
    categories: dict[str, StepCost] = {}
    """The same by category of kernels."""
    gpu_operators: dict[str, StepCost] = {}
    """The same by innermost operator around the launch."""
    gpu_kernels: dict[str, StepCost] = {}
    """The same by name of the GPU event, with its spread."""


class FigureChange(msgspec.Struct, frozen=True):
    """Change of one figure from the baseline to the new trace."""

    phase: str | None
    """Phase over whose steps the figure is averaged; None if the figure is of the whole trace."""
    name: str
    """Name of the span, operator or kernel."""
    unit: str
    baseline: float
    new: float
    change_percent: float | None
    """Change relative to the baseline; None if the baseline is 0."""


class PhaseChange(msgspec.Struct, frozen=True):
    """Step time of one phase in the baseline and in the new trace, or the window of traces without steps.

    Steps with as many requests and tokens are compared: the median of each such group, averaged over the groups that
    both traces have. If these take less than a quarter of a trace's time, the average is over the groups of each trace.
    """

    phase: str
    baseline_ms: float
    new_ms: float
    change_percent: float
    """Change of the step time; of the time per token if `per` says so."""
    noise_percent: float | None
    """Two standard errors of the difference of the means, over steps of the same work, in percent of the baseline.

    A trace in which no two steps have the same work takes the spread of the other. None if the spread is unknown.
    """
    baseline_ms_per_token: float | None
    new_ms_per_token: float | None
    verdict: Literal["faster", "slower", "no clear change", "moved"]
    """`moved` if a category of GPU time changed by more than its noise, and the step's time by 3 % at most.

    The 3 % include the noise. Where the noise is larger, or not known, it is open whether the time changed.
    """
    per: Literal["step", "token", "window"] = "step"
    """Unit of work that is compared: a token, if the traces have little work in common and steps differ in tokens."""
    timed_by: Literal["span", "wall", "window"] = "span"
    """Time of a step: its span, or that from the end of the step before to its own where the host runs ahead."""

    @property
    def compared_ms(self) -> tuple[float, float]:
        """Times in ms that are compared, per token or per step: the baseline's and the new trace's."""
        if self.per == "token" and self.baseline_ms_per_token is not None and self.new_ms_per_token is not None:
            return self.baseline_ms_per_token, self.new_ms_per_token
        return self.baseline_ms, self.new_ms


class WorkChange(msgspec.Struct, frozen=True, kw_only=True):
    """Change of the GPU time of one category, operator or kernel."""

    phase: str
    kind: Literal["category", "operator", "kernel"]
    name: str
    per: Literal["step", "token", "window"]
    """Unit of work: a step, a token where the phase is compared per token, or the window of traces without steps."""
    baseline_ms: float
    new_ms: float
    change_percent: float | None
    """Change relative to the baseline; None if the baseline is 0."""
    noise_ms: float | None
    """Two standard errors of the difference of the means; None if both traces have a single step.

    A trace of a single step takes the spread of the other one.
    """
    verdict: Literal["slower", "faster", "new", "gone", "no clear change"]


class BudgetChange(msgspec.Struct, frozen=True):
    """Time budgets of the mean step of one phase on one device, in the baseline and in the new trace."""

    phase: str | None
    """None for the budgets of whole recordings, if neither trace has steps."""
    baseline: TimeBudget
    new: TimeBudget


Lost = Literal["wait", "transfer", "kernels", "copies", "host", "other"]


class LostTime(msgspec.Struct, frozen=True):
    """A part of a step on one rank, and what it takes beyond the ideal."""

    part: Lost
    """`wait` for other ranks, `transfer` between them, `kernels`, exposed `copies`, `host`, or `other` idle time."""
    baseline_ms: float
    new_ms: float
    lost_ms: float
    """Time beyond that of an ideal step; negative if the part takes less."""


class ScalingChange(msgspec.Struct, frozen=True, kw_only=True):
    """Step of one phase on a different number of ranks than in the baseline."""

    phase: str
    ranks_before: int
    ranks_after: int
    work: Literal["split", "per_rank"]
    """`split` if the ranks share one step's work; `per_rank` if each rank computes about as long as before."""
    baseline_ms: float
    """Mean wall time of a step on one rank in the baseline."""
    new_ms: float
    ideal_ms: float
    """Wall time of a step if all parts scaled: the baseline's, divided by the ratio of ranks if the work is split."""
    speedup: float
    """Work per time, relative to the baseline."""
    ideal_speedup: float
    lost: list[LostTime]
    """Where the time beyond `ideal_ms` went; adds up to `new_ms` - `ideal_ms`."""


class TraceComparison(msgspec.Struct, frozen=True):
    """Comparison of two traces, per step of each phase that both have; of whole traces if neither has steps."""

    baseline: str
    """Path of the baseline trace."""
    warnings: list[str]
    """Reasons why the figures may not be comparable: differences between the runs, and the baseline's warnings."""
    phases: list[PhaseChange]
    spans: list[FigureChange]
    """Wall time of spans."""
    kernels: list[FigureChange]
    """Time of GPU events or, see `kernels_on`, of operators."""
    kernels_on: Literal["cpu", "gpu"]
    """`gpu` if `kernels` holds GPU events; `cpu` if it holds operators, because a trace has no GPU events."""
    launches: list[FigureChange]
    """Number of GPU events per span."""
    headline: str
    fail_above_percent: float | None
    """Slowdown of a phase beyond which the comparison fails; None without such a limit."""
    failed: bool
    budgets: list[BudgetChange] = []
    """Where a step gained or lost time; empty if a trace has no budget."""
    scaling: ScalingChange | None = None
    """Speed-up over a different number of ranks; None for the same number."""
    work: list[WorkChange] = []
    """GPU time by category, operator and kernel, per kind and phase the largest change first, at most 20 rows."""
    causes: list[str] = []
    """Per phase: the part of a step that changed most, as a sentence."""

    def __repr__(self) -> str:
        """Return one line with the headline."""
        return short_repr("TraceComparison", "failed" if self.failed else "passed", self.headline)

    def _repr_html_(self) -> str:
        return notebook_html(self)
