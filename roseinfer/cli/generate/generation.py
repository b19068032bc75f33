"""Run a call of `generate`: print text, one JSON document or JSON lines, or chat.

Imports torch: the command imports this module only when it runs.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from roseinfer.cli import console
from roseinfer.cli.generate.answer_rows import open_lines
from roseinfer.cli.generate.answer_stream import answers
from roseinfer.cli.generate.answer_text import AnswerText
from roseinfer.cli.generate.chat_session import ChatSession, read_line
from roseinfer.cli.generate.generate_call import GenerateCall
from roseinfer.cli.generate.generation_progress import GenerationProgress
from roseinfer.cli.generate.generation_statistics import Tally
from roseinfer.cli.loading import find_model, load_engine
from roseinfer.cli.useless_flags import refuse_filters_of_greedy
from roseinfer.cli.visible_text import visible
from roseinfer.config import SamplingParams
from roseinfer.config_file import sampling_with
from roseinfer.engine.engine import Engine
from roseinfer.engine.outputs import TokenEvent
from roseinfer.engine.prompt import Prompt
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.text.generation_config import recommendation_origin, recommended_sampling
from roseinfer.weights.resolve import ModelSource
from roseinfer.workload.answer import Answer, rows
from roseinfer.workload.prompts import PromptForm, parse_prompt, read_prompts, shown
from roseinfer.workload.request_lines import count_requests, read_requests
from roseinfer.workload.workload_request import WorkloadRequest

_PLAIN = SamplingParams()
"""Settings of a model that recommends none."""


def print_text(call: GenerateCall) -> None:
    """Stream the completions to stdout in the order of their prompts."""
    call, source = with_model(call)
    _, requests = _requests(call)
    requests = list(requests)
    engine = _engine(call, source)
    tally = Tally()
    with console.stages() as stage:
        if stage is not None:
            stage("Computing the first token", ticks=True)  # long prompts take time, and so does compiling kernels
        is_waiting = stage is not None

        def write(part: str) -> None:
            nonlocal is_waiting
            if is_waiting and stage is not None:
                stage.end()
                is_waiting = False
            _write(part)

        text = AnswerText(requests, write)
        for answer in _answers(call, engine, requests, on_event=text.add):
            text.end(answer)
            tally.add(answer)
    console.note(tally.statistics().line())


def print_document(call: GenerateCall) -> None:
    """Print all completions as one JSON document."""
    call, source = with_model(call)
    total, requests = _requests(call)
    engine = _engine(call, source)
    tally = Tally()
    outputs: list[dict[str, Any]] = []
    with console.progress("Generating", unit="requests") as line:
        progress = GenerationProgress(line, total)
        for answer in _answers(call, engine, requests, on_event=progress.add_token):
            prompt = {"prompt": shown(answer.request.prompt)}
            outputs += ({**prompt, **row} for row in rows(answer, has_text=engine.tokenizer is not None))
            tally.add(answer)
            progress.add_answer()
    _print_json(engine.model_name, tally, {"outputs": outputs})
    _report_refused(tally, "the document")


def write_lines(call: GenerateCall, name: str) -> None:
    """Write one line per completion to a file, or to stdout (`-`), each once all earlier ones are written."""
    call, source = with_model(call)
    total, requests = _requests(call)
    if call.writes_into_folder:
        _make_folder(Path(name).parent)
    with open_lines(name, resume=call.resume) as lines:
        done = lines.answered
        engine = _engine(call, source)
        tally = Tally()
        # On one terminal, a progress line and lines of output would garble each other.
        hidden = name == "-" and sys.stdout.isatty()
        with nullcontext() if hidden else console.progress("Generating", unit="requests") as line:
            progress = GenerationProgress(line, total, len(done))
            try:
                for answer in _answers(call, engine, requests, done=done, on_event=progress.add_token):
                    lines.write(answer, has_text=engine.tokenizer is not None)
                    tally.add(answer)
                    progress.add_answer()
            except KeyboardInterrupt:
                if name != "-":
                    console.note(
                        f"[generate] {name} has {len(done) + tally.answers} answers: --resume continues the file"
                    )
                raise
    report(call, source.name, tally, name)


def chat(call: GenerateCall) -> None:
    """Chat with the user at the terminal."""
    call, source = with_model(call)
    engine = _engine(call, source)
    raw, options = call.config.workload.raw, call.template_options
    session = ChatSession(engine, call.config.sampling, system=call.system, raw=raw, template_options=options)
    session.run(read_line, _write)


def with_model(call: GenerateCall) -> tuple[GenerateCall, ModelSource]:
    """Find the model, and return the call with the sampling settings that the model recommends below those given."""
    source = find_model(call.config.engine)
    recommended = recommended_sampling(source)
    sampling = sampling_with(recommended, call.given.settings)
    if call.input_file is None:
        refuse_filters_of_greedy(sampling, call.given.flags)
    used = {
        key: value
        for key in SamplingParams.__struct_fields__
        if (value := getattr(recommended, key)) == getattr(sampling, key) != getattr(_PLAIN, key)
    }
    if used:
        settings = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in used.items())
        console.note(f"[generate] {settings}: from the model's {recommendation_origin(source)}; options win over it")
    config = msgspec.structs.replace(call.config, sampling=sampling)
    return msgspec.structs.replace(call, config=config), source


def prompt_form(call: GenerateCall) -> PromptForm:
    """Return how the prompts of the call become prompts of the engine."""
    return PromptForm(
        raw=call.config.workload.raw,
        system=call.system,
        parse_special=call.parse_special,
        template_options=call.template_options,
    )


def _engine(call: GenerateCall, source: ModelSource) -> Engine:
    engine = load_engine(call.config.engine, source)
    prompt_form(call).check(engine)
    return engine


def _requests(call: GenerateCall) -> tuple[int | None, Iterable[WorkloadRequest]]:
    """Return (number of requests, or None for a pipe; the requests)."""
    sampling = call.config.sampling
    if call.input_file is not None:
        # An invalid line is kept as a refused request, so that the others run.
        count = count_requests(call.input_file)
        # Counting the requests of a shard would parse every line twice.
        known = count if call.shard is None else None
        return known, read_requests(call.input_file, sampling, keep_wrong=True)
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
    done: Mapping[str | int, str | None] = MappingProxyType({}),
    on_event: Callable[[WorkloadRequest, TokenEvent], None] | None = None,
) -> Iterator[Answer]:
    form = prompt_form(call)

    def accepted(prompt: Prompt) -> Prompt:
        return form.converted(prompt, engine)

    scheduler = engine.scheduler(call.config.workload.mode)
    as_they_fit = call.input_file is not None or call.output is not None
    return answers(
        scheduler, requests, accepted, as_they_fit=as_they_fit, done=done, shard=call.shard, on_event=on_event
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the folder {folder}: {error.strerror}") from None


def report(call: GenerateCall, model: str, tally: Tally, name: str) -> None:
    """Print the statistics of the answers in `name`, `-` for stdout. Raises RoseinferError if any was refused."""
    if call.json:
        _print_json(model, tally, {"output": name})
    else:
        console.note(tally.statistics().line())
    _report_refused(tally, "stdout" if name == "-" else name)


def _print_json(model: str, tally: Tally, content: dict[str, Any]) -> None:
    console.print_json({"schema_version": 1, "model": model, **content, "statistics": tally.statistics()})


def _report_refused(tally: Tally, where: str) -> None:
    if tally.refused:
        raise RoseinferError(f"{tally.refused} of {tally.answers} requests were refused: see the errors in {where}")


def _write(text: str) -> None:
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
