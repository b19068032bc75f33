"""Run the steps of a page, and write what they print into its blocks marked `record`.

    python docs/record.py docs/tutorial.md                             # steps that need no GPU
    python docs/record.py docs/tutorial.md --gpu --output recorded.md  # those that do, on a GPU machine

Steps run in this checkout, with this Python's packages, and as a page orders them, since one may need what another
wrote. Where a page shows only the first paragraphs of an output, with a last line `...`, as many are written again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from block_runner import BlockRunner, Step, plain_environment, steps_of, with_this_python
from code_blocks import ROOT, blocks


def main() -> int:
    """Record a page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--gpu", action="store_true", help="run the steps that need a GPU, and no others")
    parser.add_argument("--output", type=Path, help="file for the page [default: the page itself]")
    arguments = parser.parse_args()
    lines = arguments.page.read_text(encoding="utf-8").splitlines(keepends=True)
    with tempfile.TemporaryDirectory(prefix="roseinfer-record-") as folder:
        environment = with_this_python(plain_environment(Path(folder) / "cache"), Path(folder) / "bin")
        recorded = _record(steps_of(blocks(arguments.page)), environment, gpu=arguments.gpu)
    if recorded is None:
        return 1
    for step, printed in reversed(recorded):
        assert step.command is not None
        first = step.command.line + step.text.count("\n")  # index of the line after the command
        lines[first : first + step.command.output.count("\n")] = [as_shown(step.command.output, printed)]
    (arguments.output or arguments.page).write_text("".join(lines), encoding="utf-8")
    return 0


def _record(steps: list[Step], environment: dict[str, str], *, gpu: bool) -> list[tuple[Step, str]] | None:
    """Return what each step to record printed; None if a step ended with another exit code than the page says."""
    recorded = []
    with BlockRunner(ROOT, environment) as runner:
        for step in steps:
            if step.block.marks & {"by hand", "slow"} or ("gpu" in step.block.marks) != gpu:
                continue
            print(f"{step.line}: {step.title}", flush=True)
            outcome = runner.run(step)
            if outcome.exit_code != step.expected_exit_code:
                print(f"failed: {outcome.fault_of(step)}\n{outcome.stdout}{outcome.stderr}")
                return None
            if "record" in step.block.marks and step.command is not None:
                recorded.append((step, outcome.stdout or outcome.stderr))
    return recorded


def as_shown(shown: str, printed: str) -> str:
    """Return what was printed, without trailing blanks, and as far as `shown` goes if it ends with a line `...`."""
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    if not shown.endswith("...\n"):
        return text
    paragraphs = _paragraphs(text)
    kept = max(1, len(_paragraphs(shown.removesuffix("...\n"))))
    return text if kept >= len(paragraphs) else "\n\n".join(paragraphs[:kept]) + "\n...\n"


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip("\n") for paragraph in text.split("\n\n") if paragraph.strip()]


if __name__ == "__main__":
    sys.exit(main())
