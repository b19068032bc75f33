"""State that the runner keeps per row between steps: block table, sampling parameters, penalty history."""

from collections import Counter
from collections.abc import Sequence

from roseinfer.engine.step_batch import RowStart
from roseinfer.sampling.penalties import History

_NO_TOKENS: frozenset[int] = frozenset()


class RowState:
    """State of one row while one request occupies it. Compared by identity: a new request gets a new state."""

    def __init__(self, start: RowStart) -> None:
        self.params = start.params
        self.seed = start.seed
        self.block_table: list[int] = []
        self.counts_tokens = start.params.has_penalty
        """True if penalties need the history of the row's tokens."""
        self._num_prompt_tokens = start.num_prompt_tokens
        self._stop_token_ids = frozenset(start.stop_token_ids)
        self._prompt: set[int] = set()
        self._completion: Counter[int] = Counter()
        self._num_counted = 0  # leading tokens in the history
        if self.counts_tokens:
            self.count_tokens(0, start.cached_token_ids)

    def count_tokens(self, position: int, token_ids: Sequence[int]) -> None:
        """Add consecutive tokens, the first at `position`, to the penalty history.

        Tokens at positions that were counted already are skipped: a step that failed is launched again.
        """
        new = token_ids[self._num_counted - position :]
        in_prompt = max(self._num_prompt_tokens - self._num_counted, 0)
        self._prompt.update(new[:in_prompt])
        self._completion.update(new[in_prompt:])
        self._num_counted += len(new)

    def history(self, num_tokens: int) -> History:
        """Return the token counts and bans that affect the draw of the token after `num_tokens` tokens."""
        num_new_tokens = num_tokens - self._num_prompt_tokens
        banned = self._stop_token_ids if num_new_tokens < self.params.min_new_tokens else _NO_TOKENS
        return History(self._prompt, self._completion, banned)
