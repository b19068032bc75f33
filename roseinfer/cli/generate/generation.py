"""Carrying out a call of `generate`: as text, as one document, as JSON lines, or as a chat.

Imports torch: only the command calls it, inside.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import nullcontext
from typing import Any

import msgspec

from roseinfer.cli import console
from roseinfer.cli.generate.answer_rows import answered, open_lines, rows
from roseinfer.cli.generate.answer_stream import Answer, answers
from roseinfer.cli.generate.answer_text import AnswerText
from roseinfer.cli.generate.chat_session import Chat, read_line
from roseinfer.cli.generate.generate_call import GenerateCall
from roseinfer.cli.loading import load_engine
from roseinfer.engine.engine import Engine
from roseinfer.engine.loaded_model import Prompt
from roseinfer.engine.outputs import TokenEvent
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.prompts import parse_prompt, read_prompts, shown, to_prompt
from roseinfer.workload.request_lines import count_requests, read_requests
from roseinfer.workload.workload_request import WorkloadRequest


class Statistics(msgspec.Struct, frozen=True):
    """What a call to `generate` took."""

    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float
    ttft_ms: float | None
    """From submission to the first token of all; None when nothing was generated."""
    completion_tokens_per_s: float

    def line(self) -> str:
        first = "" if self.ttft_ms is None else f", first after {self.ttft_ms:.0f} ms"
        return (
            f"[generate] {self.prompt_tokens} prompt + {self.completion_tokens} completion tokens in "
            f"{self.elapsed_s:.2f} s: {self.completion_tokens_per_s:.1f} tokens/s{first}"
        )


class _Tally:
    """Counts answers as they pass."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._prompt_tokens = self._completion_tokens = 0
        self._first_s = math.inf
        self.answers = self.refused = 0

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.refused += answer.error is not None
        self._prompt_tokens += len(answer.outputs[0].prompt_token_ids) if answer.outputs else 0
        for output in answer.outputs:
            self._completion_tokens += len(output.token_ids)
            self._first_s = min(self._first_s, math.inf if output.ttft_s is None else output.ttft_s)

    def statistics(self) -> Statistics:
        elapsed_s = time.perf_counter() - self._started_s
        return Statistics(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            elapsed_s=elapsed_s,
            ttft_ms=None if self._first_s == math.inf else self._first_s * 1e3,
            completion_tokens_per_s=self._completion_tokens / elapsed_s,
        )


def print_text(call: GenerateCall) -> None:
    """Stream the completions to stdout, in the prompts' order."""
    _, requests = _requests(call)
    requests = list(requests)
    text = AnswerText(requests, _write)
    engine = _engine(call)
    tally = _Tally()
    for answer in _answers(call, engine, requests, on_event=text.add):
        text.end(answer)
        tally.add(answer)
    console.note(tally.statistics().line())


def print_document(call: GenerateCall) -> None:
    """Print all completions as one JSON document."""
    total, requests = _requests(call)
    engine = _engine(call)
    tally = _Tally()
    outputs: list[dict[str, Any]] = []
    with console.progress("Generating", unit="requests") as on_progress:
        for answer in _answers(call, engine, requests):
            prompt = {"prompt": shown(answer.request.prompt)}
            outputs += ({**prompt, **row} for row in rows(answer, has_text=engine.tokenizer is not None))
            tally.add(answer)
            if on_progress is not None:
                on_progress(tally.answers, total or tally.answers)
    _print_json(engine, tally, {"outputs": outputs})
    _report_refused(tally, "the document")


def write_lines(call: GenerateCall, name: str) -> None:
    """Write a line a completion to a file, or to stdout (`-`), each as soon as all before it are there."""
    total, requests = _requests(call)
    done = answered(name) if call.resume else set()
    with open_lines(name, resume=call.resume) as lines:
        engine = _engine(call)
        tally = _Tally()
        # A progress bar between lines on one terminal would garble both.
        hidden = name == "-" and sys.stdout.isatty()
        with nullcontext() if hidden else console.progress("Generating", unit="requests") as on_progress:
            try:
                for answer in _answers(call, engine, requests, done=done):
                    lines.write(rows(answer, has_text=engine.tokenizer is not None))
                    tally.add(answer)
                    if on_progress is not None:
                        on_progress(len(done) + tally.answers, total or len(done) + tally.answers)
            except KeyboardInterrupt:
                if name != "-":
                    console.note(f"[generate] {name} has {len(done) + tally.answers} answers: --resume continues it")
                raise
    if call.json:
        _print_json(engine, tally, {"output": name})
    else:
        console.note(tally.statistics().line())
    _report_refused(tally, "stdout" if name == "-" else name)


def chat(call: GenerateCall) -> None:
    """Talk to whoever sits at the terminal."""
    engine = _engine(call)
    Chat(engine, call.config.sampling, system=call.system, raw=call.config.workload.raw).run(read_line, _write)


def _engine(call: GenerateCall) -> Engine:
    engine = load_engine(call.config.engine)
    if call.system is not None and engine.chat_template is None:
        raise UsageError(f"{engine.model_name} has no chat template, so no place for a system message: drop --system")
    return engine


def _requests(call: GenerateCall) -> tuple[int | None, Iterable[WorkloadRequest]]:
    """How many there are, where that is known, and the requests."""
    sampling = call.config.sampling
    if call.input_file is not None:
        # A file's lines have all been looked at by then; those of a pipe come one by one, and more wait behind them.
        total = count_requests(call.input_file, sampling)
        return total, read_requests(call.input_file, sampling, keep_wrong=total is None)
    texts = read_prompts(call.config.workload)
    return len(texts), [
        WorkloadRequest(id=place, prompt=parse_prompt(text), params=sampling)
        for place, text in enumerate(texts, start=1)
    ]


def _answers(
    call: GenerateCall,
    engine: Engine,
    requests: Iterable[WorkloadRequest],
    *,
    done: Set[str | int] = frozenset(),
    on_event: Callable[[WorkloadRequest, TokenEvent], None] | None = None,
) -> Iterator[Answer]:
    def prompt_of(prompt: Prompt) -> Prompt:
        return to_prompt(prompt, engine, raw=call.config.workload.raw, system=call.system)

    scheduler = engine.scheduler(call.config.workload.mode)
    as_they_fit = call.input_file is not None or call.output is not None
    return answers(scheduler, requests, prompt_of, as_they_fit=as_they_fit, done=done, on_event=on_event)


def _print_json(engine: Engine, tally: _Tally, what: dict[str, Any]) -> None:
    console.print_json({"schema_version": 1, "model": engine.model_name, **what, "statistics": tally.statistics()})


def _report_refused(tally: _Tally, where: str) -> None:
    if tally.refused:
        raise RoseinferError(f"{tally.refused} of {tally.answers} requests were refused: see the errors in {where}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
