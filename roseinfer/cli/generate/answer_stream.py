"""Many requests as one stream through a scheduler, their answers in the order of the requests.

Imports torch: only the command calls it, inside.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from roseinfer.engine.loaded_model import Prompt
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.workload_request import WorkloadRequest

_BATCHES_AHEAD = 2
"""Full batches that are submitted and not finished: enough that a step never lacks a request to start."""
_BATCHES_HELD = 64
"""Full batches between the oldest answer that is missing and the newest request, whose answers wait for it."""


@dataclass
class Answer:
    """A request and its `n` completions, or why it was refused."""

    request: WorkloadRequest
    outputs: list[RequestOutput] = field(default_factory=list)
    error: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.error is not None or len(self.outputs) == self.request.params.n


def answers(
    scheduler: Scheduler,
    requests: Iterable[WorkloadRequest],
    prompt_of: Callable[[Prompt], Prompt],
    *,
    as_they_fit: bool,
    done: Container[str | int] = frozenset(),
    on_event: Callable[[WorkloadRequest, TokenEvent], None] | None = None,
) -> Iterator[Answer]:
    """Run requests, those with an id in `done` left out, and yield their answers in order.

    `prompt_of` makes a request's prompt what the engine takes. With `as_they_fit`, requests are read as the scheduler
    has room for them, and one that is refused has that as its answer; else all are submitted before the first step,
    and the first refusal is raised. What `requests` raises ends the reading, and is raised after the last answer.
    """
    batch = scheduler.engine.config.max_batch_size
    source = iter(requests)
    failure: RoseinferError | None = None
    more = True
    waiting: deque[Answer] = deque()
    running: dict[int, Answer] = {}  # by the scheduler's id
    try:
        while True:
            while more and not (as_they_fit and _is_full(batch, waiting, running)):
                try:
                    request = next(source, None)
                except RoseinferError as error:
                    request, failure = None, error
                if request is None:
                    more = False
                elif request.id in done:
                    scheduler.skip()
                else:
                    answer = Answer(request)
                    waiting.append(answer)
                    try:
                        if request.refusal is not None:
                            raise UsageError(request.refusal)
                        running[scheduler.submit(prompt_of(request.prompt), request.params)] = answer
                    except RoseinferError as error:
                        if not as_they_fit:
                            raise
                        scheduler.skip()
                        answer.error = str(error)
            for event in scheduler.step():
                if on_event is not None:
                    on_event(running[event.request_id].request, event)
            for output in scheduler.take_outputs():
                running[output.request_id].outputs.append(output)
                if running[output.request_id].is_whole:
                    running.pop(output.request_id).outputs.sort(key=lambda each: each.sample_index)
            while waiting and waiting[0].is_whole:
                yield waiting.popleft()
            if not more and not waiting:
                break
    finally:
        for request_id in running:
            scheduler.abort(request_id)
    if failure is not None:
        raise failure


def _is_full(batch: int, waiting: deque[Answer], running: dict[int, Answer]) -> bool:
    unfinished = sum(answer.request.params.n - len(answer.outputs) for answer in running.values())
    return unfinished >= _BATCHES_AHEAD * batch or len(waiting) >= _BATCHES_HELD * batch
