"""One call of `Engine.generate` or `Engine.stream`, as the shared loop sees it."""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from roseinfer.config import SamplingParams
from roseinfer.engine.outputs import RequestOutput, TokenEvent
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError


class Call:
    """The requests of one call, and what the loop has for its consumer: events, outputs, an error.

    Only the thread that leads the loop uses `start`, `abort` and the methods that add something.
    """

    def __init__(
        self, prompts: Sequence[list[int]], params: Sequence[SamplingParams], submitted_s: float, *, streams: bool
    ) -> None:
        """`prompts` are token ids that `encode` returned. A call that `streams` gets events, any other gets outputs."""
        self.streams = streams
        self.events: deque[TokenEvent] = deque()
        self.outputs: list[RequestOutput] = []
        self.error: BaseException | None = None
        """Error that ended the call."""
        self.is_started = False
        self.is_cancelled = False
        self.wake: Callable[[], None] | None = None
        """Wakes the consumer; None while the consumer does not wait."""
        self.wants: Callable[[], bool] = lambda: True
        """True once the waiting consumer has what it waits for."""
        self._prompts, self._params = prompts, params
        self._submitted_s = submitted_s
        self._num_unfinished = sum(each.n for each in params)
        self._places: dict[int, int] = {}  # index of the prompt by the scheduler's request id

    @property
    def is_over(self) -> bool:
        """True if nothing more will happen to the call."""
        return self.error is not None or self._num_unfinished == 0

    def start(self, scheduler: Scheduler) -> dict[int, "Call"]:
        """Submit the requests, the longest completions first; return the call by each request id.

        Requests that run as one batch finish closest together that way. If one of them is refused, none is queued, and
        the refusal is the call's error.
        """
        self.is_started = True
        room = scheduler.engine.max_model_len
        lengths = [
            min(each.max_new_tokens, room - len(prompt))
            for prompt, each in zip(self._prompts, self._params, strict=True)
        ]
        try:
            for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
                request_id = scheduler.submit_encoded(self._prompts[place], self._params[place], place=place)
                self._places[request_id] = place
        except RoseinferError as error:
            self.abort(scheduler)
            self._places.clear()
            self.error = error
        return dict.fromkeys(self._places, self)

    def abort(self, scheduler: Scheduler | None) -> None:
        """End the unfinished requests, which frees their blocks."""
        if scheduler is not None:
            for request_id in self._places:
                scheduler.abort(request_id)
        self._num_unfinished = 0

    @property
    def request_ids(self) -> list[int]:
        """The scheduler's ids of the requests."""
        return list(self._places)

    def add_event(self, event: TokenEvent) -> None:
        """Add a token of one of the requests, for the consumer of a stream."""
        if self.streams:
            self.events.append(replace(event, request_id=self._places[event.request_id]))

    def add_output(self, output: RequestOutput) -> None:
        """Count a finished completion, and add it for the consumer of outputs."""
        self._num_unfinished -= 1
        if not self.streams:
            place = self._places[output.request_id]
            self.outputs.append(replace(output, request_id=place, submitted_s=self._submitted_s))

    def sorted_outputs(self) -> list[RequestOutput]:
        """Return the outputs in the order of the prompts."""
        return sorted(self.outputs, key=lambda output: (output.request_id, output.sample_index))

    def raise_error(self) -> None:
        """Raise the error that ended the call, if any: as it is on the thread that met it, else as a copy."""
        if isinstance(self.error, RoseinferError):
            raise type(self.error)(str(self.error)) from self.error
        if self.error is not None:
            raise RoseinferError(f"the step that computed this call failed: {_described(self.error)}") from self.error


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
