"""Ending a completion where a stop string appears in its text."""

from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in streamed text, also when they straddle pieces; what they match is never let through.

    Text that may be the beginning of a stop string is held back until the next piece decides. Of several stop strings
    that one counts which is complete first, and of those complete at once the longest: so the text does not depend on
    where the pieces part.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """The text that is now certain not to be part of a stop string; nothing more once one was found."""
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
        """What was held back, when the completion ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
