"""`roseinfer generate`: complete prompts as streamed text, in batches of JSON lines, or in a chat."""

import math
import sys
from typing import Annotated, Any

import msgspec
import typer

from roseinfer.cli import console
from roseinfer.cli.generate.generate_call import GenerateCall
from roseinfer.cli.options import Debug, GivenSampling, Json, Quiet, configured
from roseinfer.cli.ray_options import Actors, Ray
from roseinfer.config import RunConfig, WorkloadConfig
from roseinfer.config_file import sampling_with
from roseinfer.errors import UsageError
from roseinfer.workload.shard import parse_shard

EXAMPLES = (
    ("Complete one prompt, or two as a batch", 'roseinfer generate "The capital of France is" "Two plus two is"'),
    ("Chat on the terminal", "roseinfer generate"),
    (
        "Sample, with a seed, from a model in a directory or a file",
        'roseinfer generate "Once upon" --model model.gguf --temperature 0.8 --seed 1',
    ),
    (
        "Run a file of requests, and continue after an interruption",
        "roseinfer generate --input requests.jsonl --output answers.jsonl --resume",
    ),
    (
        "Run the first of four parts of a file",
        "roseinfer generate --input requests.jsonl --output answers/ --shard 0/4",
    ),
    (
        "Run files of requests on all GPUs of a Ray cluster",
        "roseinfer generate --input 'requests/*.parquet' --output answers/ --ray auto",
    ),
)


@configured("engine", "workload", "sampling", passes_given=True)
def generate(
    config: RunConfig,
    context: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="Prompts to complete; - reads stdin, ids:1,2,3 gives token ids."),
    ] = None,
    *,
    input_file: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE|DIR|GLOB",
            help="Requests as JSON lines or Parquet; - is stdin.",
            rich_help_panel="Batch",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE|DIR",
            help="File for the answers as JSON lines; - is stdout.",
            rich_help_panel="Batch",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue --output: skip the requests that it answers.", rich_help_panel="Batch"),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Run part I, from 0, of N parts of --input; with a folder as --output.",
            rich_help_panel="Batch",
        ),
    ] = None,
    ray: Ray = None,
    actors: Actors = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT", help="System message for chats that have none.", rich_help_panel="Workload"
        ),
    ] = None,
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Recognize control tokens that raw prompts spell out, such as <|fim_prefix|>.",
            rich_help_panel="Workload",
        ),
    ] = False,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs",
            metavar="JSON",
            help="Variables of the chat template, such as '{\"enable_thinking\": false}'.",
            rich_help_panel="Workload",
        ),
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            "--logit-bias",
            metavar="ID=VALUE",
            help="Value to add to the logit of a token id (repeatable).",
            rich_help_panel="Sampling",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    given: GivenSampling,
) -> None:
    """Complete prompts and stream the text to stdout.

    Several prompts run as one batch, and their completions are printed in order. Without a prompt, generate starts a
    chat on a terminal, and elsewhere reads one prompt from stdin.

    Each line of --input is a request: a JSON object with a "prompt", "messages" or "prompt_token_ids", an optional
    "id" (default: the line number), and optional sampling settings, as in {"prompt": "Hi", "temperature": 1}. Lines of
    OpenAI's batch files work too; "tools" and "chat_template_kwargs" go to the chat template.

    Answers go to --output, or to stdout, in the order of the requests, one line per completion. Each answer is written
    once all earlier ones are. The answer of an invalid line, and of a request that cannot run, is an object with an
    "error"; the others run, and the exit code is 1.

    With --shard, several processes divide the requests among them, by a hash of their ids. If --output is a folder,
    each writes a file of its own there, and `roseinfer merge` joins them. With --ray, engines on a Ray cluster answer
    the requests. If --output is a folder, each block of requests becomes a file there as soon as it is answered.
    """
    if logit_bias:
        given = given._replace(settings={**given.settings, "logit_bias": _logit_bias(logit_bias)})
        config = msgspec.structs.replace(config, sampling=sampling_with(config.sampling, given.settings))
    if prompts and context.params["workload_prompts"]:
        raise UsageError("prompts were given as arguments and with --prompt: choose one way")
    config = msgspec.structs.replace(config, workload=_with_arguments(config.workload, prompts or []))
    call = GenerateCall(
        config=config,
        given=given,
        input_file=input_file,
        output=output,
        resume=resume,
        shard=None if shard is None else parse_shard(shard),
        ray=ray,
        actors=actors,
        system=system,
        parse_special=parse_special,
        template_options=_template_options(chat_template_kwargs),
        json=json,
    )
    call.check()
    if not call.has_prompt and not call.is_chat:
        if sys.stdin.isatty():
            raise UsageError("no prompt: give one as an argument, with --prompts-file, or on stdin")
        config = msgspec.structs.replace(config, workload=_with_arguments(config.workload, ["-"]))
        call = msgspec.structs.replace(call, config=config)
    with console.progress("Importing torch", ticks=True):
        from roseinfer.cli.generate import generation

    if call.is_chat:
        generation.chat(call)
    elif call.ray is not None and call.input_file is not None:
        from roseinfer.cli.generate.ray_generation import write_blocks

        write_blocks(call, call.ray, call.input_file)
    elif call.lines_to is not None:
        generation.write_lines(call, call.lines_to)
    elif json:
        generation.print_document(call)
    else:
        generation.print_text(call)


def _logit_bias(pairs: list[str]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for pair in pairs:
        token_id, _, value = pair.partition("=")
        try:
            bias[int(token_id)] = float(value)
        except ValueError:
            raise UsageError(f"invalid --logit-bias {pair!r}: give ID=VALUE, such as 42=-5.5") from None
        if not math.isfinite(bias[int(token_id)]):
            raise UsageError(f"invalid --logit-bias {pair!r}: give a finite number as the value")
    return bias


def _template_options(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    from roseinfer.engine.prompt import check_template_options

    try:
        options = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"invalid --chat-template-kwargs {text!r}: not valid JSON: {error}") from None
    check_template_options(options, "--chat-template-kwargs")
    return dict(options)


def _with_arguments(workload: WorkloadConfig, arguments: list[str]) -> WorkloadConfig:
    """Return the workload with the prompts of the command line, reading stdin for `-`."""
    if not arguments:
        return workload
    texts = tuple(_stdin_text() if argument == "-" else argument for argument in arguments)
    return msgspec.structs.replace(workload, prompts=texts)


def _stdin_text() -> str:
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError:
        raise UsageError("the prompt on stdin is not UTF-8 text: convert it to UTF-8") from None
