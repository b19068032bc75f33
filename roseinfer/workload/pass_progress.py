"""Progress within a pass over a load."""

from collections.abc import Sequence

from roseinfer.engine.step_plan import StepPlan
from roseinfer.progress import ProgressCallback
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import OnStep


def reporting(on_progress: ProgressCallback | None, load: Sequence[PlannedRequest]) -> OnStep | None:
    """Return an `on_step` for `run_load` that reports how much of the load is done; None without a callback.

    The share is that of the tokens of the longest possible completions. It is approximate: to be cheap in a timed pass,
    every request of a step counts as if it drew a token, and completions that end early are not known in advance.
    """
    if on_progress is None:
        return None
    total = sum(max(request.params.max_new_tokens, 1) * request.params.n for request in load)
    done = 0

    def on_step(plan: StepPlan) -> None:
        nonlocal done
        done += len(plan.chunks) * plan.decode_steps
        on_progress(min(done, total), total)

    return on_step
