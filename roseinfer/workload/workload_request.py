"""One request of a workload, as the user wrote it."""

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.engine.prompt import Prompt


class WorkloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the user wrote it, before any chat template is applied."""

    id: str | int
    """Identifier of the request in its answer: by default its position in the input, counted from 1."""
    prompt: Prompt
    """Text, token ids, or chat messages."""
    params: SamplingParams
    refusal: str | None = None
    """Reason why the request cannot run, found while reading; its prompt is then empty. None for a valid request."""
