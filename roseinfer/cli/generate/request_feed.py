"""Submit requests to a scheduler in order, with a limit on unfinished requests and undelivered answers."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from roseinfer.engine.outputs import RequestOutput
from roseinfer.engine.prompt import Prompt
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.answer import Answer, check_unchanged
from roseinfer.workload.shard import Shard
from roseinfer.workload.workload_request import WorkloadRequest

_BATCHES_AHEAD = 2
"""Maximum unfinished completions, in full batches: two, so that a request always waits when another finishes."""
_BATCHES_HELD = 64
"""Maximum answers not yet delivered, in full batches. Complete answers wait for the oldest incomplete one."""


class RequestFeed:
    """Reads requests, submits them, and holds their answers until they are complete and in order.

    `to_prompt` converts a request's prompt to one that the engine accepts. Requests whose id is in `done` are skipped.
    Their digests there, if any, must be those of their prompts, or else no further request is read. Requests that
    `shard` does not hold are skipped too.
    With `as_they_fit`, requests are read only while the scheduler has room, and a refusal becomes the answer of its
    request. Otherwise all requests are submitted before the first step, and the first refusal is raised.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        requests: Iterable[WorkloadRequest],
        to_prompt: Callable[[Prompt], Prompt],
        *,
        as_they_fit: bool,
        done: Mapping[str | int, str | None],
        shard: Shard | None = None,
    ) -> None:
        self.pending: deque[Answer] = deque()
        """Answers not yet delivered to the caller, in the order of their requests."""
        self.is_exhausted = False
        self.failure: RoseinferError | None = None
        """Error that stopped the reading of requests; None if there was no error."""
        self._scheduler = scheduler
        self._requests = iter(requests)
        self._to_prompt = to_prompt
        self._as_they_fit = as_they_fit
        self._done = done
        self._shard = shard
        self._running: dict[int, Answer] = {}  # by the scheduler's request id
        batch = scheduler.engine.limits.max_batch_size
        self._max_unfinished = _BATCHES_AHEAD * batch
        self._max_pending = _BATCHES_HELD * batch

    def submit(self) -> None:
        """Submit the next requests: up to both limits if `as_they_fit`, else all."""
        while not self.is_exhausted and not (self._as_they_fit and self._is_full()):
            try:
                request = next(self._requests, None)
            except RoseinferError as error:
                request, self.failure = None, error
            if request is None:
                self.is_exhausted = True
            elif self._shard is not None and not self._shard.holds(request.id):
                self._scheduler.skip()
            elif request.id in self._done:
                try:
                    check_unchanged(request, self._done)
                    self._scheduler.skip()
                except UsageError as error:
                    self.failure, self.is_exhausted = error, True
            else:
                self._submit(request)

    def request(self, request_id: int) -> WorkloadRequest:
        """Return the unfinished request to which the scheduler gave this id."""
        return self._running[request_id].request

    def add(self, output: RequestOutput) -> None:
        """Add a finished completion to its answer."""
        answer = self._running[output.request_id]
        answer.add(output)
        if answer.is_complete:
            del self._running[output.request_id]

    def abort(self) -> None:
        """Abort all unfinished requests."""
        for request_id in self._running:
            self._scheduler.abort(request_id)

    def _submit(self, request: WorkloadRequest) -> None:
        answer = Answer(request)
        self.pending.append(answer)
        try:
            if request.refusal is not None:
                raise UsageError(request.refusal)
            self._running[self._scheduler.submit(self._to_prompt(request.prompt), request.params)] = answer
        except RoseinferError as error:
            if not self._as_they_fit:
                raise
            self._scheduler.skip()
            answer.error = str(error)

    def _is_full(self) -> bool:
        unfinished = sum(answer.request.params.n - len(answer.outputs) for answer in self._running.values())
        return unfinished >= self._max_unfinished or len(self.pending) >= self._max_pending
