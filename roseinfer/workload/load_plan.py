"""What a workload sends: which prompts, how long their completions may be, and when they arrive."""

import random
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from roseinfer.config import SamplingParams, WorkloadConfig
from roseinfer.engine.loaded_model import LoadedModel, Prompt
from roseinfer.errors import UsageError
from roseinfer.workload.arrivals import arrival_times_s
from roseinfer.workload.lengths import parse_lengths
from roseinfer.workload.prompts import read_prompts, to_prompt, to_prompts
from roseinfer.workload.request_lines import read_requests

_LARGEST_TOKEN_ID = 10_000
"""Of drawn prompts: small engines' benchmarks draw from 0..10000, and the same ids make results comparable."""


class PlannedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to send."""

    prompt: Prompt
    params: SamplingParams
    arrival_s: float = 0.0
    """Seconds after the start; without a meaning where it continues another."""
    continues: int | None = None
    """The index of the request whose conversation this one carries on: it arrives when that one has ended, and its
    prompt comes after that one's prompt and completion."""


def at_once(prompts: Sequence[Prompt], params: SamplingParams) -> list[PlannedRequest]:
    """Requests that are all there from the start."""
    return [PlannedRequest(prompt=prompt, params=params) for prompt in prompts]


def plan_load(workload: WorkloadConfig, sampling: SamplingParams, engine: LoadedModel) -> list[PlannedRequest]:
    """The requests of a workload, drawn or read, the same ones each time; of conversations, all first turns first.

    Raises UsageError for settings that do not go together.
    """
    if workload.request_rate is not None and workload.mode != "online":
        raise UsageError(f"request_rate is for mode online: in mode {workload.mode} all requests are there at once")
    rng = random.Random(workload.seed)
    if workload.prompt_length is None:
        given = _read(workload, sampling, engine)
    else:
        given = [(prompt, sampling) for prompt in _drawn(workload, engine, rng)]
    conversations = len(given) // workload.turns
    arrivals_s = arrival_times_s(conversations, workload.request_rate, workload.burst_size, workload.seed)
    lengths = None
    if workload.completion_length is not None:
        lengths = parse_lengths("completion_length", workload.completion_length)
    return [
        PlannedRequest(
            prompt=prompt,
            params=params if lengths is None else replace(params, max_new_tokens=lengths.draw(rng)),
            arrival_s=arrivals_s[index % conversations],
            continues=index - conversations if index >= conversations else None,
        )
        for index, (prompt, params) in enumerate(given)
    ]


def _drawn(workload: WorkloadConfig, engine: LoadedModel, rng: random.Random) -> list[Prompt]:
    """Random ids: a length and then so many ids, for each prompt in turn."""
    if workload.prompts or workload.prompts_file is not None:
        raise UsageError("prompts and a prompt_length were both given: choose one")
    assert workload.prompt_length is not None
    lengths = parse_lengths("prompt_length", workload.prompt_length)
    largest = min(_LARGEST_TOKEN_ID, engine.model_config.vocab_size - 1)

    def ids(count: int) -> list[int]:
        return [rng.randint(0, largest) for _ in range(count)]

    conversations = workload.num_requests or engine.config.max_batch_size
    prefixes = [ids(workload.shared_prefix_length) for _ in range(workload.num_prefixes)]
    prompts: list[Prompt] = []
    for index in range(conversations * workload.turns):
        prefix = prefixes[index % len(prefixes)] if index < conversations else []
        prompts.append(prefix + ids(lengths.draw(rng)))
    return prompts


def _read(
    workload: WorkloadConfig, sampling: SamplingParams, engine: LoadedModel
) -> list[tuple[Prompt, SamplingParams]]:
    """Prompts as given, or the lines of a file; JSON lines may bring sampling settings of their own."""
    if workload.turns > 1 or workload.shared_prefix_length:
        raise UsageError("turns and shared_prefix_length need drawn prompts: give a prompt_length")
    path = workload.prompts_file
    if path is None or not path.endswith(".jsonl") or workload.prompts:
        return [(prompt, sampling) for prompt in to_prompts(read_prompts(workload), engine, raw=workload.raw)]
    requests = list(read_requests(path, sampling))
    if not requests:
        raise UsageError(f'{path} has no requests: write one a line, such as {{"prompt": "Hello"}}')
    count = workload.num_requests or len(requests)
    taken = [requests[index % len(requests)] for index in range(count)]
    return [(to_prompt(request.prompt, engine, raw=workload.raw), request.params) for request in taken]
