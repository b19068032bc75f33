"""The text of one completion as its tokens arrive, up to its stop strings."""

from collections.abc import Sequence

from roseinfer.engine.request import Request
from roseinfer.text.detokenizer import Detokenizer
from roseinfer.text.stop import StopStrings


class CompletionText:
    """Detokenizes a request's tokens and holds back text that may become a stop string."""

    def __init__(self, request: Request, detokenizer: Detokenizer) -> None:
        self.request = request
        self._detokenizer = detokenizer
        self._stops = StopStrings(request.params.stop) if any(request.params.stop) else None
        self._num_tokens = 0
        # Leading tokens at which no stop string may end the completion.
        self._num_without_stop = request.params.min_new_tokens - 1

    @property
    def stopped(self) -> bool:
        """True once a stop string has appeared."""
        return self._stops is not None and self._stops.found

    def add(self, token_ids: Sequence[int]) -> list[str]:
        """Add the next tokens, and return the text that each of them completes."""
        texts = [self._detokenizer.add(token_id) for token_id in token_ids]
        return texts if self._stops is None else [self._before_stop(text) for text in texts]

    def finish(self) -> str:
        """Return the text that is still held back, once the completion's last token was added."""
        rest = self._detokenizer.finish()
        return rest if self._stops is None else self._stops.add(rest) + self._stops.finish()

    def _before_stop(self, text: str) -> str:
        assert self._stops is not None
        self._num_tokens += 1
        return text if self._num_tokens <= self._num_without_stop else self._stops.add(text)
