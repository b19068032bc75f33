"""Record what GPU profiles say: decoding by graph replay, and gather attention compared with paged attention.

    python -m benchmarks.gpu_profiles --record

Profiles decode steps of qwen3-0.6b at batch 1 and 64. Then profiles the config tutorial-gpt2 with `--attention gather`
and with `--attention paged`, and compares the two. Gather attention copies every request's KV cache in every step, as
the tutorial engine did from which this project started.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu import decode
from benchmarks.record_option import add_record_options, check_record_options, write_record

_ACTIVE = ["--phase", "decode", "--wait", "0", "--warmup", "1", "--active", "2", "--repeat", "1"]
_RECORD = "gpu-profiles.md"
_TUTORIAL = ["--config", "tutorial-gpt2", "--max-decode-steps", "1"]


def roseinfer(*arguments: str) -> str:
    """Run a roseinfer command and return its stdout; exit with its stderr if it fails."""
    done = subprocess.run([sys.executable, "-m", "roseinfer", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"roseinfer {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def profile(folder: Path, options: list[str]) -> tuple[str, Path]:
    """Profile once; return the command line to show, and the run directory."""
    roseinfer("profile", *options, *_ACTIVE, "--profile-dir", str(folder))
    run = next(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return f"roseinfer profile {' '.join([*options, *_ACTIVE])}", run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_record_options(parser, _RECORD)
    arguments = parser.parse_args()
    check_record_options(parser, arguments)
    sections = ["# What profiles of a GPU say\n\n    python -m benchmarks.gpu_profiles --record"]
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, 64):
            options = [*decode("qwen3-0.6b", batch), "--no-stop-on-eos"]
            command, run = profile(Path(folder) / f"batch-{batch}", options)
            said = roseinfer("summarize", str(run), "--markdown")
            sections.append(f"## Decoding by graph, batch {batch}\n\n    {command}\n\n{said.strip()}")
        runs = {}
        for attention in ("gather", "paged"):
            command, runs[attention] = profile(Path(folder) / attention, [*_TUTORIAL, "--attention", attention])
            said = roseinfer("summarize", str(runs[attention]), "--markdown")
            sections.append(f"## tutorial-gpt2, attention {attention}\n\n    {command}\n\n{said.strip()}")
        said = roseinfer("summarize", str(runs["paged"]), "--baseline", str(runs["gather"]), "--markdown")
        sections.append(f"## paged compared with gather\n\n{said.strip()}")
    record = "\n\n".join(sections) + "\n"
    print(record)
    write_record(arguments, _RECORD, record)


if __name__ == "__main__":
    main()
