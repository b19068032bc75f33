"""Answer batches of requests on one engine, from one thread that never waits while a batch is unfinished."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from roseinfer.config import Mode
from roseinfer.engine.device import num_threads
from roseinfer.engine.engine import Engine
from roseinfer.engine.prompt import Prompt
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.ray.blocks import PlacedRequest
from roseinfer.workload.answer import Answer

Step = Callable[[Scheduler], object]
"""Computes one step of a scheduler."""


@dataclass(eq=False)
class _Batch:
    requests: Sequence[PlacedRequest]
    prompts: list[list[int] | None]
    """Token ids of each request; None for a request that was refused."""
    answers: list[Answer]
    future: "Future[list[Answer]]" = field(default_factory=Future)


class AnswerLoop:
    """Runs the batches of all callers as one continuous batch. Callers may be of any thread.

    A batch's requests get the seeds of their places, so that answers do not depend on which engine runs them, or when.
    """

    def __init__(self, engine: Engine, mode: Mode, to_prompt: Callable[[Prompt], Prompt]) -> None:
        """`to_prompt` converts a request's prompt to one that the engine accepts."""
        self.engine = engine
        self.step: Step = Scheduler.step
        """Computes a step. Another function may take its place, to record some steps. Called on the loop's thread."""
        self.at_idle: Callable[[], None] | None = None
        """Called on the loop's thread when no request is left, before the next batch."""
        self.idle_s = 0.0
        """Time without any request between the first batch and the last answer, in seconds."""
        self._scheduler = engine.scheduler(mode)
        self._to_prompt = to_prompt
        self._inbox: SimpleQueue[_Batch] = SimpleQueue()
        self._running: dict[int, tuple[_Batch, Answer]] = {}  # by the scheduler's request id
        self._unfinished: set[_Batch] = set()
        self._ended_s: float | None = None  # time of the last answer, while there is no request
        threading.Thread(target=self._run, name="answer-loop", daemon=True).start()

    def submit(self, requests: Sequence[PlacedRequest]) -> "Future[list[Answer]]":
        """Queue a batch. The future returns its answers, in the order of the requests.

        A request that cannot run is answered with an error. The future raises an error only if a step fails, after
        which the loop has ended.
        """
        batch = _Batch(requests, [], [Answer(each.request) for each in requests])
        for answer in batch.answers:
            batch.prompts.append(self._encoded(answer))
        self._inbox.put(batch)
        return batch.future

    def reset_idle(self) -> None:
        """Count `idle_s` from the next batch on. Call this once all batches have ended."""
        while self._ended_s is None:  # the loop notes it soon after the last answer
            time.sleep(0.001)
        self.idle_s, self._ended_s = 0.0, None

    def _encoded(self, answer: Answer) -> list[int] | None:
        try:
            if answer.request.refusal is not None:
                raise UsageError(answer.request.refusal)
            return self.engine.encode(self._to_prompt(answer.request.prompt))
        except RoseinferError as error:
            answer.error = str(error)
            return None

    def _run(self) -> None:
        num_threads()  # torch sets the number of threads of OpenMP per thread, on first use
        while True:
            batch = self._next(waits=not self._scheduler.has_unfinished)
            if batch is not None and self._ended_s is not None:
                self.idle_s += time.perf_counter() - self._ended_s
                self._ended_s = None
            try:
                while batch is not None:
                    self._start(batch)
                    batch = self._next(waits=False)
                if self._scheduler.has_unfinished:
                    self.step(self._scheduler)
                    self._scheduler.take_steps()
                self._collect()
                if not self._scheduler.has_unfinished and self.at_idle is not None:
                    self.at_idle()
            except BaseException as error:
                self._fail(error)
                return
            if not self._scheduler.has_unfinished and self._ended_s is None:
                self._ended_s = time.perf_counter()

    def _next(self, *, waits: bool) -> _Batch | None:
        try:
            return self._inbox.get(block=waits)
        except Empty:
            return None

    def _start(self, batch: _Batch) -> None:
        self._unfinished.add(batch)
        for placed, prompt, answer in zip(batch.requests, batch.prompts, batch.answers, strict=True):
            if prompt is None:
                continue
            try:
                request_id = self._scheduler.submit(prompt, placed.request.params, place=placed.place)
                self._running[request_id] = batch, answer
            except RoseinferError as error:
                answer.error = str(error)
        self._end_if_complete(batch)

    def _collect(self) -> None:
        for output in self._scheduler.take_outputs():
            batch, answer = self._running[output.request_id]
            answer.add(output)
            if answer.is_complete:
                del self._running[output.request_id]
                self._end_if_complete(batch)

    def _end_if_complete(self, batch: _Batch) -> None:
        if all(answer.is_complete for answer in batch.answers):
            self._unfinished.remove(batch)
            batch.future.set_result(batch.answers)

    def _fail(self, error: BaseException) -> None:
        """End all batches, those that arrive later too."""
        for batch in self._unfinished:
            batch.future.set_exception(error)
        while True:
            self._inbox.get().future.set_exception(error)
