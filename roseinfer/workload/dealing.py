"""Dealing the requests of one load to several engines, and joining the results of their passes."""

from collections.abc import Sequence

from msgspec.structs import asdict, replace

from roseinfer.engine.loaded_model import LoadedModel
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import WorkloadResult


class EncodedRequest(PlannedRequest, frozen=True, kw_only=True):
    """A request of a load that can be sent to another process."""

    prompt: list[int]


def encoded_load(load: Sequence[PlannedRequest], model: LoadedModel) -> list[EncodedRequest]:
    """Return the load with the prompts as token ids."""
    return [
        request
        if isinstance(request, EncodedRequest)
        else EncodedRequest(**asdict(request) | {"prompt": list(model.encode(request.prompt))})
        for request in load
    ]


def dealt(load: Sequence[EncodedRequest], num_engines: int) -> list[list[EncodedRequest]]:
    """Return the part of a load that each engine gets.

    Each request goes to the engine with the fewest tokens so far, in the order of arrival, and among requests that
    arrive together the longest first. Later turns of a conversation follow its first turn.
    """
    turns: dict[int, list[int]] = {}  # index of each conversation's first turn -> indexes of all its turns
    first_of: dict[int, int] = {}
    for index, request in enumerate(load):
        first_of[index] = index if request.continues is None else first_of[request.continues]
        turns.setdefault(first_of[index], []).append(index)
    tokens = {first: sum(_num_tokens(load[index]) for index in indexes) for first, indexes in turns.items()}
    given = [0] * num_engines
    owners: dict[int, int] = {}
    for first in sorted(turns, key=lambda index: (load[index].arrival_s, -tokens[index])):
        owners[first] = given.index(min(given))
        given[owners[first]] += tokens[first]
    parts: list[list[EncodedRequest]] = [[] for _ in range(num_engines)]
    places: dict[int, int] = {}  # index in the load -> index in its part
    for index, request in enumerate(load):
        part = parts[owners[first_of[index]]]
        places[index] = len(part)
        part.append(request if request.continues is None else replace(request, continues=places[request.continues]))
    return parts


def joined(results: Sequence[WorkloadResult]) -> WorkloadResult:
    """Return the results of passes that ran at the same time as the result of one.

    Requests are numbered engine by engine. The time is that from the first start to the last end.
    """
    started_s = min(result.started_s for result in results)
    ended_s = max(result.started_s + result.add_s + result.run_s for result in results)
    add_s = max(result.add_s for result in results)
    outputs = []
    before = 0
    for result in results:
        outputs += [replace(output, request_id=before + output.request_id) for output in result.outputs]
        before += len(result.arrivals_s)
    return WorkloadResult(
        mode=results[0].mode,
        started_s=started_s,
        add_s=add_s,
        run_s=ended_s - started_s - add_s,
        arrivals_s=[arrival_s for result in results for arrival_s in result.arrivals_s],
        outputs=outputs,
        steps=[step for result in results for step in result.steps],
        preemptions=sum(result.preemptions for result in results),
        queried_tokens=sum(result.queried_tokens for result in results),
        cached_tokens=sum(result.cached_tokens for result in results),
    )


def _num_tokens(request: EncodedRequest) -> int:
    return len(request.prompt) + request.params.max_new_tokens * request.params.n
