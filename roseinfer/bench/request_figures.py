"""Raw figures of each request in a timed pass. Every latency is computed from them; `--save-requests` writes them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from roseinfer.engine.outputs import FinishReason
from roseinfer.whole_file import whole_file
from roseinfer.workload.load_runner import WorkloadResult


class RequestFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and times of one completion. Times are in seconds after the start of the pass."""

    repeat: int
    request_id: int
    sample_index: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    arrival_s: float
    """Arrival of the request. Latencies start here, not at the later `submitted_s`."""
    submitted_s: float
    token_times_s: list[float]

    @property
    def ttft_s(self) -> float | None:
        """Time from arrival to the first token; None for an empty completion."""
        return self.token_times_s[0] - self.arrival_s if self.token_times_s else None

    @property
    def itl_s(self) -> list[float]:
        """Gaps between consecutive tokens."""
        return [after - before for before, after in pairwise(self.token_times_s)]

    @property
    def tpot_s(self) -> float | None:
        """Time per output token, (E2E - TTFT) / (tokens - 1); None for fewer than two tokens."""
        times = self.token_times_s
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

    @property
    def e2e_s(self) -> float | None:
        """Time from arrival to the last token; None for an empty completion."""
        return self.token_times_s[-1] - self.arrival_s if self.token_times_s else None


def request_figures(result: WorkloadResult, repeat: int) -> list[RequestFigures]:
    """Return one record per completion, in the order of submission."""
    started_s = result.started_s
    return [
        RequestFigures(
            repeat=repeat,
            request_id=output.request_id,
            sample_index=output.sample_index,
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(output.token_ids),
            finish_reason=output.finish_reason,
            arrival_s=result.arrivals_s[output.request_id] - started_s,
            submitted_s=output.submitted_s - started_s,
            token_times_s=[time_s - started_s for time_s in output.token_times_s],
        )
        for output in result.outputs
    ]


def save_requests(path: Path, runs: Iterable[tuple[str, Sequence[RequestFigures]]]) -> None:
    """Write JSON lines, each record with the name of its run. Raises RoseinferError if the file cannot be written."""
    encode = msgspec.json.encode
    with whole_file(path) as file:
        for name, figures in runs:
            for each in figures:
                file.write(encode({"run": name, **msgspec.structs.asdict(each)}) + b"\n")
