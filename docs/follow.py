"""Follow README and docs in a fresh clone: run every command and Python block, and print its exit code and seconds.

    python3 docs/follow.py                    # all pages, README first, in a clone that is deleted afterwards
    python3 docs/follow.py README.md --keep   # one page; keep the clone
    python3 docs/follow.py --here --gpu-only  # only the steps for a GPU, in this checkout, with this Python's packages

The clone is set up first, and every page starts with `.venv` activated. Steps that need a GPU are skipped where there
is none. Marks above the blocks say what else is special about them (docs/code_blocks.py). Ends with 1 if a step differs
from its page.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path

from block_runner import (
    BlockRunner,
    Outcome,
    Step,
    activated,
    has_gpu,
    plain_environment,
    steps_of,
    with_this_python,
)
from code_blocks import ROOT, Block, Command, blocks, pages

LINES_OF_A_FAILURE = 40


def main() -> int:
    """Follow the pages; return the exit code."""
    arguments = _arguments()
    missing = [page for page in arguments.pages if not (ROOT / page).is_file()]
    if missing:
        _print(f"no page {missing[0]!r}: give a path from the top of the repository, such as docs/library.md")
        return 2
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="roseinfer-follow-"))
        if not arguments.keep:
            stack.callback(shutil.rmtree, work, ignore_errors=True)
        folder = ROOT if arguments.here else _clone(work / "roseinfer")
        return _follow(arguments, folder, work)


def _arguments() -> argparse.Namespace:
    every = [str(page.relative_to(ROOT)) for page in pages()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=every, help="pages to follow [default: README and docs]")
    parser.add_argument("--here", action="store_true", help="use this checkout and this Python, not a fresh clone")
    parser.add_argument("--gpu-only", action="store_true", help="run the steps that need a GPU, and no others")
    parser.add_argument("--quick", action="store_true", help="leave out the steps marked slow")
    parser.add_argument("--keep", action="store_true", help="keep the clone")
    parser.add_argument("--timeout", type=float, default=3600.0, help="limit per step, seconds [default: %(default)s]")
    return parser.parse_args()


def _clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    _print(f"following {folder}" + ("; uncommitted changes are not in it" if changed.stdout else ""))
    return folder


def _follow(arguments: argparse.Namespace, folder: Path, work: Path) -> int:
    gpu = has_gpu()
    environment = plain_environment(work / "cache")
    _print(f"{'exit':>4}  {'seconds':>7}  step")
    if arguments.here:
        environment = with_this_python(environment, work / "bin")
    elif not _set_up(folder, environment, arguments.timeout):
        return 1
    else:
        environment = activated(environment, folder / ".venv")
    run = skipped = failed = 0
    for page in arguments.pages:
        with BlockRunner(folder, environment, timeout_s=arguments.timeout) as runner:
            for step in steps_of(blocks(folder / page)):
                place = f"{page}:{step.line}: {step.title}"
                reason = reason_to_skip(step.block, gpu=gpu, gpu_only=arguments.gpu_only, quick=arguments.quick)
                if reason is not None:
                    skipped += 1
                    _print(f"{'-':>4}  {'-':>7}  {place}  [skipped: {reason}]")
                    continue
                run += 1
                failed += not _report(step, runner.run(step), place)
    _print(f"{run} steps run, {skipped} skipped, {failed} failed")
    return int(failed > 0)


def _set_up(folder: Path, environment: dict[str, str], timeout_s: float) -> bool:
    """Create the environment that the pages assume; return True if that worked."""
    block = Block(Path("set-up"), 0, "console", "", commands=(Command("make setup", "", 1),))
    with BlockRunner(folder, environment, timeout_s=timeout_s) as runner:
        [step] = steps_of([block])
        return _report(step, runner.run(step), "set-up: make setup")


def reason_to_skip(block: Block, *, gpu: bool, gpu_only: bool, quick: bool) -> str | None:
    """Return why a block is not run, None if it is run."""
    if "by hand" in block.marks:
        return "by hand"
    if "gpu" in block.marks and not gpu:
        return "needs a GPU"
    if quick and "slow" in block.marks:
        return "slow"
    return "needs no GPU" if gpu_only and "gpu" not in block.marks else None


def _report(step: Step, outcome: Outcome, place: str) -> bool:
    """Print a line, and for a step that differs from its page the end of its output; return True if it does not."""
    code = "none" if outcome.exit_code is None else str(outcome.exit_code)
    _print(f"{code:>4}  {outcome.seconds:>7.1f}  {place}")
    fault = outcome.fault_of(step)
    if fault is not None:
        _print(f"      FAILED: it {fault}; its output ends:")
        printed = [*outcome.stdout.splitlines(), *outcome.stderr.splitlines()][-LINES_OF_A_FAILURE:]
        _print(textwrap.indent("\n".join(printed), "      | "))
    return fault is None


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
