"""Summary of one pass over a workload, printed by both `bench` and `profile`."""

import msgspec

from roseinfer.config import Mode
from roseinfer.workload.load_runner import WorkloadResult


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Counts, times and rates of one pass.

    The tokens of a prompt count once, however many completions it has.
    """

    mode: Mode
    requests: int
    elapsed_add_s: float
    elapsed_run_s: float
    elapsed_total_s: float
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_per_s: float
    total_tokens_per_s: float

    @classmethod
    def of(cls, result: WorkloadResult) -> "Report":
        prompts = {output.request_id: len(output.prompt_token_ids) for output in result.outputs}
        prompt_tokens = sum(prompts.values())
        completion_tokens = sum(len(output.token_ids) for output in result.outputs)
        elapsed_s = result.add_s + result.run_s
        return cls(
            mode=result.mode,
            requests=len(prompts),
            elapsed_add_s=result.add_s,
            elapsed_run_s=result.run_s,
            elapsed_total_s=elapsed_s,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            completion_tokens_per_s=completion_tokens / elapsed_s,
            total_tokens_per_s=(prompt_tokens + completion_tokens) / elapsed_s,
        )

    @property
    def requests_per_s(self) -> float:
        """Requests per second of the whole pass, including the time spent waiting for arrivals."""
        return self.requests / self.elapsed_total_s

    def lines(self) -> list[tuple[str, str]]:
        """Return the printed lines, each as (label, value)."""
        return [
            ("Requests", f"{self.requests}"),
            ("Elapsed (prefill/add)", f"{self.elapsed_add_s:.6f} s"),
            ("Elapsed (decode/run)", f"{self.elapsed_run_s:.6f} s"),
            ("Elapsed (total)", f"{self.elapsed_total_s:.6f} s"),
            ("Prompt tokens", f"{self.prompt_tokens}"),
            ("Completion tokens", f"{self.completion_tokens}"),
            ("Total tokens", f"{self.total_tokens}"),
            ("Throughput (completion)", f"{self.completion_tokens_per_s:.2f} tokens/s"),
            ("Throughput (total)", f"{self.total_tokens_per_s:.2f} tokens/s"),
            ("Throughput (requests)", f"{self.requests_per_s:.2f} requests/s"),
        ]
