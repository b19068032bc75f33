"""The figures of one pass: what `bench` and `profile` both print."""

import msgspec

from roseinfer.config import Mode
from roseinfer.workload.run import WorkloadResult


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One pass in eight figures. Tokens are counted as ids, by the engine."""

    mode: Mode
    requests: int
    elapsed_add_s: float
    elapsed_run_s: float
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, result: WorkloadResult) -> "Report":
        return cls(
            mode=result.mode,
            requests=len(result.outputs),
            elapsed_add_s=result.add_s,
            elapsed_run_s=result.run_s,
            prompt_tokens=sum(len(output.prompt_token_ids) for output in result.outputs),
            completion_tokens=sum(len(output.token_ids) for output in result.outputs),
        )

    @property
    def elapsed_total_s(self) -> float:
        return self.elapsed_add_s + self.elapsed_run_s

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def completion_tokens_per_s(self) -> float:
        return self.completion_tokens / self.elapsed_total_s

    @property
    def total_tokens_per_s(self) -> float:
        return self.total_tokens / self.elapsed_total_s

    def lines(self) -> list[tuple[str, str]]:
        """Label and value of each line."""
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
        ]
