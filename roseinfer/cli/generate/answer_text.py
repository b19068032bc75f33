"""Completions as text in the order of their requests.

The first unfinished completion is written as it grows, later ones once all before them are finished.
"""

from collections import deque
from collections.abc import Callable, Sequence

from roseinfer.engine.outputs import TokenEvent
from roseinfer.workload.answer import Answer
from roseinfer.workload.prompts import shown
from roseinfer.workload.workload_request import WorkloadRequest

_Key = tuple[str | int, int]
"""Request id and sample index of a completion."""


class AnswerText:
    """Writes completions in order from events in any order. Several prompts or completions each get a heading."""

    def __init__(self, requests: Sequence[WorkloadRequest], write: Callable[[str], object]) -> None:
        self._write = write
        self._queue = deque((request, sample) for request in requests for sample in range(request.params.n))
        self._has_headings = len(requests) > 1
        self._begun = False  # True once the heading of the first completion in the queue is written
        self._pieces: dict[_Key, list[str]] = {}
        self._ended: set[_Key] = set()

    def add(self, request: WorkloadRequest, event: TokenEvent) -> None:
        """Add the text of a new token."""
        key = (request.id, event.sample_index)
        self._pieces.setdefault(key, []).append(event.text)
        if event.finish_reason is not None:
            self._ended.add(key)
        self._advance()

    def end(self, answer: Answer) -> None:
        """End all completions of an answer, including those without tokens, which have no events."""
        unseen = {(request.id, sample) for request, sample in self._queue if request is answer.request}
        self._ended |= unseen
        self._advance()

    def _advance(self) -> None:
        while self._queue:
            request, sample = self._queue[0]
            key = (request.id, sample)
            if key not in self._pieces and key not in self._ended:
                return
            if not self._begun:
                self._write(self._heading(request, sample))
                self._begun = True
            self._write("".join(self._pieces.pop(key, ())))
            if key not in self._ended:
                return
            self._queue.popleft()
            self._begun = False
            self._write("\n\n" if self._queue else "\n")

    def _heading(self, request: WorkloadRequest, sample: int) -> str:
        n = request.params.n
        prompt = f">>> {shown(request.prompt)}\n" if self._has_headings and sample == 0 else ""
        return prompt + (f"--- {sample + 1} of {n}\n" if n > 1 else "")
