"""Random requests for property tests of the engine: prompts that share prefixes, several completions, aborts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from roseinfer.config import SamplingParams
from roseinfer.engine.outputs import TokenEvent
from roseinfer.engine.schedulers import Scheduler


@dataclass(frozen=True)
class Job:
    """A request, the step before which it arrives, and the steps after which it is aborted."""

    prompt: tuple[int, ...]
    params: SamplingParams
    arrives_at: int
    aborts_after: int | None


tokens = st.integers(0, 5).map(lambda number: 40 * number)
params = st.builds(
    SamplingParams,
    max_new_tokens=st.integers(0, 10),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    seed=st.integers(0, 2**63 - 1),
    stop_on_eos=st.booleans(),
    n=st.sampled_from([1, 1, 1, 3]),
)
jobs = st.builds(
    Job,
    prompt=st.lists(tokens, min_size=1, max_size=40).map(tuple),
    params=params,
    arrives_at=st.integers(0, 8),
    aborts_after=st.one_of(st.none(), st.none(), st.integers(0, 8)),
)


def run_jobs(
    scheduler: Scheduler, sent: Sequence[Job], on_events: Callable[[list[TokenEvent]], None] | None = None
) -> dict[int, Job]:
    """Submit, abort and step until all jobs have ended. Returns the jobs by request id."""
    by_id: dict[int, Job] = {}
    arriving = sorted(sent, key=lambda job: job.arrives_at)
    step = 0
    while arriving or scheduler.has_unfinished:
        while arriving and arriving[0].arrives_at <= step:
            job = arriving.pop(0)
            by_id[scheduler.submit(list(job.prompt), job.params)] = job
        for request_id, job in by_id.items():
            if job.aborts_after is not None and step == job.arrives_at + job.aborts_after:
                scheduler.abort(request_id)
        events = scheduler.step()
        if on_events is not None:
            on_events(events)
        step += 1
    return by_id
