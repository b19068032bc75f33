"""Progress of a call of `generate`, in requests and tokens."""

from roseinfer.cli.progress_line import Progress
from roseinfer.engine.outputs import TokenEvent
from roseinfer.workload.workload_request import WorkloadRequest


class GenerationProgress:
    """Counts finished requests, and tokens while requests run, and shows both; shows nothing without a `line`.

    `total` is the number of requests, None if it is not known. The first `done` of them were answered earlier.
    """

    def __init__(self, line: Progress | None, total: int | None, done: int = 0) -> None:
        self._line = line
        self._total = total
        self._done = done
        self._tokens = 0

    def add_token(self, _request: WorkloadRequest, _event: TokenEvent) -> None:
        """Count one token."""
        self._tokens += 1
        self._show()

    def add_answer(self) -> None:
        """Count the complete answer of one request."""
        self._done += 1
        self._show()

    def _show(self) -> None:
        if self._line is None:
            return
        self._line.what = f"Generating, {self._tokens:,} tokens"
        if self._total is None:
            self._line.what += f", {self._done:,} requests"
            self._line(0, 0)
        else:
            self._line(self._done, self._total)
