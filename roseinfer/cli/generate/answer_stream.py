"""Run requests through a scheduler, and yield their answers in the order of the requests.

Imports torch: the command imports this module only when it runs.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType

from roseinfer.cli.generate.request_feed import RequestFeed
from roseinfer.engine.outputs import TokenEvent
from roseinfer.engine.prompt import Prompt
from roseinfer.engine.schedulers import Scheduler
from roseinfer.workload.answer import Answer
from roseinfer.workload.shard import Shard
from roseinfer.workload.workload_request import WorkloadRequest


def answers(
    scheduler: Scheduler,
    requests: Iterable[WorkloadRequest],
    to_prompt: Callable[[Prompt], Prompt],
    *,
    as_they_fit: bool,
    done: Mapping[str | int, str | None] = MappingProxyType({}),
    shard: Shard | None = None,
    on_event: Callable[[WorkloadRequest, TokenEvent], None] | None = None,
) -> Generator[Answer, None, None]:
    """Run requests and yield their complete answers in order.

    `to_prompt` converts a request's prompt to one that the engine accepts. `done` has the ids of requests to skip, with
    the digests of their prompts as in `RequestFeed`; requests that `shard` does not hold are skipped too. With
    `as_they_fit`, requests are read only while the scheduler has room; otherwise all are submitted at the start.
    If `requests` raises an error, no further request is read. The error is raised again after the last answer.
    """
    feed = RequestFeed(scheduler, requests, to_prompt, as_they_fit=as_they_fit, done=done, shard=shard)
    try:
        while True:
            feed.submit()
            for event in scheduler.step():
                if on_event is not None:
                    on_event(feed.request(event.request_id), event)
            for output in scheduler.take_outputs():
                feed.add(output)
            while feed.pending and feed.pending[0].is_complete:
                yield feed.pending.popleft()
            if feed.is_exhausted and not feed.pending:
                break
    finally:
        feed.abort()
    if feed.failure is not None:
        raise feed.failure
