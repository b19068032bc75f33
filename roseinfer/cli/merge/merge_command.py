"""`roseinfer merge`: join the answers of several processes, and check that every request has exactly one."""

from pathlib import Path
from typing import Annotated

import typer

from roseinfer.cli import console
from roseinfer.cli.merge.merged_answers import AnswerIndex, merged
from roseinfer.cli.options import Debug, Json, Quiet
from roseinfer.whole_file import check_target, whole_file

EXAMPLES = (
    (
        "Join the files that `generate --shard` or `generate --ray` wrote to a folder",
        "roseinfer merge answers/ --input requests.jsonl --output answers.jsonl",
    ),
    ("Check the files only", "roseinfer merge answers/ --input requests.jsonl"),
)


def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FOLDER|FILE...", help="Files of answers, or folders of *.jsonl files.")
    ],
    *,
    input_file: Annotated[
        str,
        typer.Option("--input", metavar="FILE|DIR|GLOB", help="Files of the requests.", rich_help_panel="Batch"),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="File for all answers.", rich_help_panel="Batch"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check that answers of generate are complete, and join them in the order of the requests.

    Every request of --input must have exactly one answer, to the prompt that it has now. If answers are missing,
    doubled or damaged, or answer no request, the first ones are named, nothing is written, and the exit code is 1.
    An answer that holds an error counts as an answer.
    """
    if output is not None:
        check_target(output, "--output")
    with console.progress("Reading answers", unit="files") as line:
        index = AnswerIndex.of(sources, on_progress=line)
    statistics = index.check(input_file)
    if output is not None:
        with whole_file(output) as file:
            for data in merged(index, input_file):
                file.write(data)
    if json:
        console.print_json({"schema_version": 1, "output": None if output is None else str(output), **statistics})
        return
    errors = f", {statistics['errors']:,} of them errors" if statistics["errors"] else ""
    where = "" if output is None else f" -> {output}"
    console.note(f"[merge] {statistics['answers']:,} answers from {statistics['files']:,} files{errors}{where}")
