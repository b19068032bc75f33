"""`roseinfer generate`: complete prompts, streaming the text; batches as JSON lines; a chat."""

import math
import sys
from typing import Annotated

import msgspec
import typer

from roseinfer.cli.generate.generate_call import GenerateCall
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import RunConfig, SamplingParams, WorkloadConfig
from roseinfer.config_file import sampling_with
from roseinfer.errors import UsageError


@configured("engine", "workload", "sampling")
def generate(
    config: RunConfig,
    context: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts; - is stdin, ids:1,2,3 is token ids.")
    ] = None,
    *,
    input_file: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="Requests as JSON lines; - is stdin.", rich_help_panel="Batch"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Write JSON lines; - is stdout.", rich_help_panel="Batch"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out ids that --output holds.", rich_help_panel="Batch")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="A chat's system message.", rich_help_panel="Workload"),
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            "--logit-bias",
            metavar="ID=VALUE",
            help="Added to a token's logit; may be given several times.",
            rich_help_panel="Sampling",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Complete prompts, streaming the text to stdout.

    Several prompts run as one batch and are printed in order.
    Without a prompt: a chat on a terminal, else stdin is one prompt.

    Each line of the --input file is a request, an object with a "prompt",
    "messages" or "prompt_token_ids", and where wanted an "id" (else the
    line's number) and sampling settings: {"prompt": "Hi", "temperature": 1}.
    Answers go to --output, or stdout, in order, a line a completion, each
    as soon as all before it are done; --resume continues the file.
    A request that cannot run has an "error" as its answer, and the others
    run. So has a wrong line of a pipe; in a file, it ends the call at once.
    """
    if logit_bias:
        config = msgspec.structs.replace(config, sampling=_with_logit_bias(config.sampling, logit_bias))
    if prompts and context.params["workload_prompts"]:
        raise UsageError("prompts were given as arguments and with --prompt: choose one way")
    config = msgspec.structs.replace(config, workload=_with_arguments(config.workload, prompts or []))
    call = GenerateCall(config=config, input_file=input_file, output=output, resume=resume, system=system, json=json)
    call.check()
    if not call.has_prompt and not call.is_chat:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt: give one as an argument, with --prompts-file, or on stdin")
        config = msgspec.structs.replace(config, workload=_with_arguments(config.workload, ["-"]))
        call = msgspec.structs.replace(call, config=config)
    from roseinfer.cli.generate import generation

    if call.is_chat:
        generation.chat(call)
    elif call.lines_to is not None:
        generation.write_lines(call, call.lines_to)
    elif json:
        generation.print_document(call)
    else:
        generation.print_text(call)


def _with_logit_bias(sampling: SamplingParams, pairs: list[str]) -> SamplingParams:
    bias: dict[int, float] = {}
    for pair in pairs:
        token_id, _, value = pair.partition("=")
        try:
            bias[int(token_id)] = float(value)
        except ValueError:
            raise UsageError(f"--logit-bias {pair}: write ID=VALUE, such as 42=-5.5") from None
        if not math.isfinite(bias[int(token_id)]):
            raise UsageError(f"--logit-bias {pair}: the value is no finite number")
    return sampling_with(sampling, {"logit_bias": bias})


def _with_arguments(workload: WorkloadConfig, arguments: list[str]) -> WorkloadConfig:
    """The workload with the prompts of the command line."""
    if not arguments:
        return workload
    texts = tuple(_stdin_text() if argument == "-" else argument for argument in arguments)
    return msgspec.structs.replace(workload, prompts=texts)


def _stdin_text() -> str:
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError:
        raise UsageError("the prompt on stdin is not UTF-8 text") from None
