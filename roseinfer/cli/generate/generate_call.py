"""What one call of `generate` asks for, checked before anything is loaded."""

import sys

import msgspec

from roseinfer.config import RunConfig
from roseinfer.errors import UsageError


class GenerateCall(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a call."""

    config: RunConfig
    input_file: str | None
    """Requests as JSON lines."""
    output: str | None
    """Where JSON lines go; None for where the rest says."""
    resume: bool
    system: str | None
    json: bool

    @property
    def has_prompt(self) -> bool:
        """Whether there is anything to complete."""
        workload = self.config.workload
        return self.input_file is not None or bool(workload.prompts) or workload.prompts_file is not None

    @property
    def is_chat(self) -> bool:
        """Whether a person sits at both ends, and brings the prompts one by one."""
        shows_text = not self.json and self.output is None
        return not self.has_prompt and shows_text and sys.stdin.isatty() and sys.stdout.isatty()

    @property
    def lines_to(self) -> str | None:
        """Where JSON lines go; None when none are written."""
        return "-" if self.output is None and self.input_file is not None and not self.json else self.output

    def check(self) -> None:
        """Raises UsageError for options that do not go together."""
        workload, sampling = self.config.workload, self.config.sampling
        if self.input_file is not None and (workload.prompts or workload.prompts_file is not None):
            raise UsageError("prompts and --input were both given: choose one")
        if self.input_file is not None and workload.num_requests is not None:
            raise UsageError("--num-requests repeats prompts, and --input brings its requests: drop one of them")
        if self.resume and self.output in (None, "-"):
            raise UsageError("--resume continues a file: name it with --output")
        if self.json and self.output == "-":
            raise UsageError("--json and --output - both write to stdout: choose one")
        if self.system is not None and workload.raw:
            raise UsageError("--raw sends prompts as they are, without messages: drop --raw or --system")
        if sampling.logprobs is not None and not self.json and self.lines_to is None:
            raise UsageError("log-probabilities show in JSON only: add --json or --output FILE, or drop --logprobs")
        if self.is_chat and sampling.n > 1:
            raise UsageError("a chat has one answer a turn: drop --n, or give a prompt")
