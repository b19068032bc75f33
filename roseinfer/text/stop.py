"""Stop strings: ending a completion when one of them appears in its text."""

from collections.abc import Sequence


class StopStrings:
    """Finds stop strings in streamed text, even across pieces. The text of a stop string is never returned.

    Text that may be the beginning of a stop string is held back until the next piece decides. The stop string that is
    complete first wins, and the longest one among those complete at the same character. The text therefore does not
    depend on how the stream is divided into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """Return the text that can no longer be part of a stop string. Once a stop string is found, return nothing."""
        if self.found:
            return ""
        text = self._held + piece
        places = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if places:
            self.found = True
            self._held = ""
            _, start = min(places)
            return text[:start]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """Return the text held back, if the completion ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
