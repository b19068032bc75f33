"""`roseinfer generate`: complete prompts, streaming the text."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import RunConfig, WorkloadConfig
from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.engine.modes import ModeScheduler
    from roseinfer.engine.request import RequestOutput


class Statistics(msgspec.Struct, frozen=True):
    """What a call to `generate` took."""

    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float
    ttft_ms: float | None
    """From submission to the first token of all; None when nothing was generated."""
    completion_tokens_per_s: float

    @classmethod
    def of(cls, outputs: "list[RequestOutput]", elapsed_s: float) -> "Statistics":
        first_s = min((output.ttft_s for output in outputs if output.ttft_s is not None), default=None)
        completion_tokens = sum(len(output.token_ids) for output in outputs)
        return cls(
            prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
            completion_tokens=completion_tokens,
            elapsed_s=elapsed_s,
            ttft_ms=None if first_s is None else first_s * 1e3,
            completion_tokens_per_s=completion_tokens / elapsed_s,
        )

    def line(self) -> str:
        first = "" if self.ttft_ms is None else f", first after {self.ttft_ms:.0f} ms"
        return (
            f"[generate] {self.prompt_tokens} prompt + {self.completion_tokens} completion tokens in "
            f"{self.elapsed_s:.2f} s: {self.completion_tokens_per_s:.1f} tokens/s{first}"
        )


@configured("engine", "workload", "sampling")
def generate(
    config: RunConfig,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts; - is stdin.")] = None,
    *,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Complete prompts, streaming the text to stdout.

    Several prompts run as one batch and are printed in order. Without a prompt, stdin is one.
    """
    workload = _with_arguments(config.workload, prompts or [])
    from roseinfer.cli.loading import load_engine
    from roseinfer.workload.requests import read_prompts, to_prompts

    texts = read_prompts(workload)
    engine = load_engine(config.engine)
    scheduler = engine.scheduler(workload.mode)
    started_s = time.perf_counter()
    for prompt in to_prompts(texts, engine, raw=workload.raw):
        scheduler.submit(prompt, config.sampling)
    if not json:
        _stream(scheduler, texts)
    outputs = scheduler.run()
    statistics = Statistics.of(outputs, time.perf_counter() - started_s)
    if json:
        rows = [_row(text, output) for text, output in zip(texts, outputs, strict=True)]
        console.print_json({"schema_version": 1, "model": engine.model_name, "outputs": rows, "statistics": statistics})
    else:
        console.note(statistics.line())


def _with_arguments(workload: WorkloadConfig, arguments: list[str]) -> WorkloadConfig:
    """The workload with the prompts of the command line, or of stdin when there are none anywhere."""
    if not arguments and not workload.prompts and workload.prompts_file is None:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt: give one as an argument, with --prompts-file, or on stdin")
        arguments = ["-"]
    if not arguments:
        return workload
    texts = tuple(_stdin_text() if argument == "-" else argument for argument in arguments)
    return msgspec.structs.replace(workload, prompts=texts)


def _stdin_text() -> str:
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError:
        raise UsageError("the prompt on stdin is not UTF-8 text") from None


def _stream(scheduler: "ModeScheduler", texts: list[str]) -> None:
    """Print completions in the prompts' order: one as it grows, those behind it once it is finished."""
    pieces: list[list[str]] = [[] for _ in texts]
    finished = [False] * len(texts)
    shown = 0
    if len(texts) > 1:
        _write(f">>> {texts[0]}\n")
    while shown < len(texts):
        for event in scheduler.step():
            pieces[event.request_id].append(event.text)
            finished[event.request_id] = event.finish_reason is not None
        # A request without any new token finishes without an event.
        while shown < len(texts) and (finished[shown] or not scheduler.has_unfinished):
            _write("".join(pieces[shown]))
            shown += 1
            _write("\n" if shown == len(texts) else f"\n\n>>> {texts[shown]}\n")
        if shown < len(texts):
            _write("".join(pieces[shown]))
            pieces[shown].clear()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _row(text: str, output: "RequestOutput") -> dict[str, object]:
    return {
        "prompt": text,
        "text": output.text,
        "token_ids": output.token_ids,
        "prompt_tokens": len(output.prompt_token_ids),
        "finish_reason": output.finish_reason,
        "ttft_ms": None if output.ttft_s is None else output.ttft_s * 1e3,
    }
