"""The requests of a workload: their prompts, completion lengths and arrival times."""

import random
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from roseinfer.config import RunConfig, SamplingParams, WorkloadConfig
from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.engine.prompt import Prompt
from roseinfer.errors import UsageError
from roseinfer.workload.arrivals import arrival_times_s
from roseinfer.workload.lengths import parse_lengths
from roseinfer.workload.prompts import read_prompts, to_prompt, to_prompts
from roseinfer.workload.request_lines import count_requests, read_requests

_LARGEST_TOKEN_ID = 10_000
"""Largest token id of drawn prompts. The published benchmark of nano-vllm draws ids from 0 to 10000 too, so that
results are comparable."""


_DRAWN_REQUESTS = 8


class PlannedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a load, before it is sent."""

    prompt: Prompt
    params: SamplingParams
    arrival_s: float = 0.0
    """Arrival in seconds after the start. Ignored if the request continues another one."""
    continues: int | None = None
    """Index of the request that is the previous turn of the same conversation, or None for a first turn.

    A later turn arrives when the previous turn finishes. Its prompt is appended to the previous turn's prompt and
    completion.
    """


def at_once(prompts: Sequence[Prompt], params: SamplingParams) -> list[PlannedRequest]:
    """Return a load whose requests all arrive at the start."""
    return [PlannedRequest(prompt=prompt, params=params) for prompt in prompts]


def plan_load(workload: WorkloadConfig, sampling: SamplingParams, engine: LoadedModel) -> list[PlannedRequest]:
    """Return the requests of a workload, drawn or read. Equal settings return equal requests.

    Conversations are ordered by turn: the first turns of all conversations, then the second turns, and so on. Raises
    UsageError for settings that exclude each other.
    """
    if workload.request_rate is not None and workload.mode != "online":
        raise UsageError(
            f"--request-rate {workload.request_rate} needs --mode online: in mode {workload.mode}, all requests arrive "
            "at the start"
        )
    rng = random.Random(workload.seed)
    if workload.prompt_length is None:
        given = _read(workload, sampling, engine)
    else:
        given = [(prompt, sampling) for prompt in _drawn(workload, engine, rng)]
    conversations = len(given) // workload.turns
    arrivals_s = arrival_times_s(conversations, workload.request_rate, workload.burst_size, workload.seed)
    lengths = None
    if workload.completion_length is not None:
        lengths = parse_lengths("--completion-length", workload.completion_length)
    return [
        PlannedRequest(
            prompt=prompt,
            params=params if lengths is None else replace(params, max_new_tokens=lengths.draw(rng)),
            arrival_s=arrivals_s[index % conversations],
            continues=index - conversations if index >= conversations else None,
        )
        for index, (prompt, params) in enumerate(given)
    ]


def requests_per_pass(config: RunConfig) -> int:
    """Return the number of requests of a workload without conversations, without planning it."""
    workload = config.workload
    if workload.num_requests is not None:
        return workload.num_requests
    if workload.prompt_length is not None:
        return drawn_requests(config.engine.max_batch_size)
    if (workload.prompts_file or "").endswith(".jsonl"):
        return count_requests(workload.prompts_file or "") or 0
    return len(read_prompts(workload))


def drawn_requests(max_batch_size: int | None) -> int:
    """Return the number of requests, or conversations, that a workload draws if `num_requests` is not set.

    That is one full batch if the batch limit is set. A limit that follows the device would make the load follow it too.
    """
    return max_batch_size or _DRAWN_REQUESTS


def _drawn(workload: WorkloadConfig, engine: LoadedModel, rng: random.Random) -> list[Prompt]:
    """Draw prompts of random token ids: for each prompt its length, then its ids."""
    if workload.prompts or workload.prompts_file is not None:
        raise UsageError("--prompt-length draws prompts, but prompts are given too: choose one")
    assert workload.prompt_length is not None
    lengths = parse_lengths("--prompt-length", workload.prompt_length)
    largest = min(_LARGEST_TOKEN_ID, engine.model_config.vocab_size - 1)

    def ids(count: int) -> list[int]:
        return [rng.randint(0, largest) for _ in range(count)]

    conversations = workload.num_requests or drawn_requests(engine.config.max_batch_size)
    prefixes = [ids(workload.shared_prefix_length) for _ in range(workload.num_prefixes)]
    prompts: list[Prompt] = []
    for index in range(conversations * workload.turns):
        prefix = prefixes[index % len(prefixes)] if index < conversations else []
        prompts.append(prefix + ids(lengths.draw(rng)))
    return prompts


def _read(
    workload: WorkloadConfig, sampling: SamplingParams, engine: LoadedModel
) -> list[tuple[Prompt, SamplingParams]]:
    """Return the given prompts, or those of a file, with the sampling settings of each.

    Only a line of a .jsonl file can have settings of its own.
    """
    if workload.turns > 1 or workload.shared_prefix_length:
        raise UsageError("--turns and --shared-prefix-length need drawn prompts: give --prompt-length")
    path = workload.prompts_file
    if path is None or not path.endswith(".jsonl") or workload.prompts:
        return [(prompt, sampling) for prompt in to_prompts(read_prompts(workload), engine, raw=workload.raw)]
    requests = list(read_requests(path, sampling))
    if not requests:
        raise UsageError(f'{path} has no requests: write one per line, such as {{"prompt": "Hello"}}')
    count = workload.num_requests or len(requests)
    taken = [requests[index % len(requests)] for index in range(count)]
    return [(to_prompt(request.prompt, engine, raw=workload.raw), request.params) for request in taken]
