"""The options of one call of `generate`, checked before anything is loaded."""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.cli.options import GivenSampling
from roseinfer.cli.ray_options import check_actors, check_device
from roseinfer.config import RunConfig
from roseinfer.errors import UsageError
from roseinfer.workload.shard import Shard


class GenerateCall(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a call, with prompts in `config.workload`."""

    config: RunConfig
    given: GivenSampling
    input_file: str | None
    """File of requests as JSON lines; `-` is stdin."""
    output: str | None
    """Value of --output, the file for answers as JSON lines; `-` is stdout, None if not given."""
    resume: bool
    """Skip requests that `output` already answers."""
    shard: Shard | None
    """Requests of `input_file` to run; None for all."""
    ray: str | None
    """Address of the Ray cluster to run on, `local` for one on this machine; None without Ray."""
    actors: int | None
    """Engines on the Ray cluster; None for as many as it has GPUs for."""
    system: str | None
    """System message for chats that have none."""
    parse_special: bool
    """Recognize control tokens that raw prompts spell out."""
    template_options: dict[str, Any]
    """Variables of the chat template, below those of a request."""
    json: bool

    @property
    def has_prompt(self) -> bool:
        """True if prompts or requests are given."""
        workload = self.config.workload
        return self.input_file is not None or bool(workload.prompts) or workload.prompts_file is not None

    @property
    def is_chat(self) -> bool:
        """True for an interactive chat: no prompt, text output, and a terminal on stdin and stdout."""
        shows_text = not self.json and self.output is None
        return not self.has_prompt and shows_text and sys.stdin.isatty() and sys.stdout.isatty()

    @property
    def lines_to(self) -> str | None:
        """Destination of JSON lines, `-` for stdout; None if the output is text or one JSON document."""
        if self.output is None:
            return "-" if self.input_file is not None and not self.json else None
        if self.shard is not None and self.writes_into_folder:
            return str(Path(self.output) / self.shard.file_name)
        return self.output

    @property
    def writes_into_folder(self) -> bool:
        """True if --output is a folder, or names one that is to be created: it ends with a slash."""
        return self.output is not None and (self.output.endswith(os.sep) or Path(self.output).is_dir())

    def check(self) -> None:
        """Raise UsageError for options that are invalid together."""
        workload, sampling = self.config.workload, self.config.sampling
        if self.input_file is not None and (workload.prompts or workload.prompts_file is not None):
            raise UsageError("prompts and --input were both given: choose one")
        if self.input_file is not None and workload.num_requests is not None:
            raise UsageError("--num-requests repeats prompts, not the requests of --input: drop one of the two")
        if self.resume and self.output in (None, "-"):
            raise UsageError("--resume continues a file: name the file with --output")
        if self.shard is not None and self.input_file is None:
            raise UsageError("--shard divides the requests of a file: name the file with --input")
        if self.shard is None and self.ray is None and self.writes_into_folder:
            raise UsageError(
                f"invalid --output {self.output}: it is a folder: name a file, or add --shard I/N or --ray"
            )
        self._check_ray()
        if self.json and self.output == "-":
            raise UsageError("--json and --output - both write to stdout: choose one")
        if self.system is not None and workload.raw:
            raise UsageError("--raw sends prompts without messages, and --system is a message: drop one of the two")
        if workload.raw and self.template_options:
            raise UsageError("--raw sends prompts without the template that --chat-template-kwargs is for: drop one")
        if sampling.logprobs is not None and not self.json and self.lines_to is None:
            raise UsageError("--logprobs shows in JSON only: add --json or --output FILE, or drop --logprobs")
        if self.is_chat and sampling.n > 1:
            raise UsageError("a chat has one answer per turn: drop --n, or give a prompt")

    def _check_ray(self) -> None:
        check_actors(self.ray, self.actors)
        if self.ray is None:
            return
        if self.input_file in (None, "-"):
            raise UsageError("--ray answers the requests of files: name them with --input")
        check_device(self.config.engine.device)
        if self.shard is not None:
            raise UsageError("--ray and --shard both divide the requests: choose one")
        if self.json and self.output is None:
            raise UsageError(
                "--json prints statistics with --ray: name a file or a folder for the answers with --output"
            )
