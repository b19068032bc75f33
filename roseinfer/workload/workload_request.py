"""One request of a workload, as the user wrote it."""

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.engine.loaded_model import Prompt


class WorkloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the user gave it."""

    id: str | int
    """What its answer is called; by default its place, counted from 1."""
    prompt: Prompt
    """A text, token ids, or messages, before any chat template."""
    params: SamplingParams
    refusal: str | None = None
    """Why it cannot run, where that showed as it was read: its prompt is then empty."""
