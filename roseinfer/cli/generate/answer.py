"""The answer to one request."""

from dataclasses import dataclass, field

from roseinfer.engine.outputs import RequestOutput
from roseinfer.workload.workload_request import WorkloadRequest


@dataclass
class Answer:
    """A request with its `n` completions, or with the reason why it was refused."""

    request: WorkloadRequest
    outputs: list[RequestOutput] = field(default_factory=list)
    """Finished completions, ordered by sample index once the answer is complete."""
    error: str | None = None

    @property
    def is_complete(self) -> bool:
        """True if no completion is outstanding."""
        return self.error is not None or len(self.outputs) == self.request.params.n

    def add(self, output: RequestOutput) -> None:
        """Add a finished completion."""
        self.outputs.append(output)
        if self.is_complete:
            self.outputs.sort(key=lambda each: each.sample_index)
