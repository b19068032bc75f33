"""Options that decide where a benchmark writes its record. Recorded results are replaced only on request."""

import argparse
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
"""Folder of the recorded results, which the repository tracks."""


def add_record_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--record` and `--output`; `name` describes the file that `--record` alone writes."""
    parser.add_argument("--record", action="store_true", help=f"write benchmarks/results/{name}, or replace --output")
    parser.add_argument("--output", type=Path, help="path of the record [default: print only]")


def check_record_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with exit code 2 if `--output` would replace a recorded result and `--record` is not given."""
    output: Path | None = arguments.output
    if output is None or arguments.record:
        return
    if output.exists() and output.resolve().is_relative_to(RESULTS):
        parser.error(f"--output {output} is a recorded result: add --record to replace it, or give another path")


def write_record(arguments: argparse.Namespace, name: str, content: str) -> None:
    """Write a record where the options say, if they say so, and name the file."""
    path: Path | None = arguments.output or (RESULTS / name if arguments.record else None)
    if path is None:
        print("no record written: add --record or --output PATH")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    print(f"wrote {path}")
