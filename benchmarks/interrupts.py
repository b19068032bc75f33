"""Send SIGINT, SIGTERM and SIGKILL to commands at random moments, and check what they leave behind.

    python -m benchmarks.interrupts [--moments 100] [--seed 0]

Each moment starts `generate --output`, `bench` or `profile` on a tiny random model and sends a signal after a random
part of the time that the command takes. Checked are the exit code, that an error is one line, that no temporary file
and no partial run directory is left (except by SIGKILL), and that `generate --resume` ends with the same answers as a
run without a signal. Prints a table in Markdown, with one line per command and signal, and what did not hold.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.soak import save_model

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_TIMED = ("ttft_ms", "e2e_ms")


class _Commands:
    """The commands under test, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        save_model(self.model)
        self.requests = folder / "requests.jsonl"
        self.requests.write_text("".join(json.dumps({"prompt": f"request {at}"}) + "\n" for at in range(200)))

    def arguments(self, name: str, place: Path) -> list[str]:
        model = ["--model", str(self.model), "--load-format", "dummy", "--dtype", "float64", "--threads", "1"]
        if name == "generate":
            files = ["--input", str(self.requests), "--output", str(place / "answers.jsonl"), "--resume"]
            return ["generate", *files, *model, "--max-new-tokens", "12"]
        load = ["--prompt-length", "16", "--num-requests", "8", "--max-new-tokens", "40"]
        if name == "bench":
            return ["bench", *model, *load, "--repeats", "5", "--json", "--save-requests", str(place / "saved.jsonl")]
        return ["profile", *model, *load, "--profile-dir", str(place / "profiles"), "--active", "20"]

    def start(self, name: str, place: Path) -> "subprocess.Popen[str]":
        temporary = place / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "roseinfer", *self.arguments(name, place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(temporary),
                "ROSEINFER_CACHE_DIR": str(self.folder / "cache"),
                "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "torch"),  # which torch's profiler makes, and leaves
            },
        )


def _problems(name: str, place: Path, number: signal.Signals, code: int, stderr: str) -> list[str]:
    """Return what an interrupted command left behind and should not have."""
    found = []
    expected = {0, -number} if number == signal.SIGKILL else {0, 128 + number, -number}
    if code not in expected:
        found.append(f"exit code {code} with {stderr.strip().splitlines()[-3:]}")
    if "Traceback" in stderr:
        found.append("a traceback")
    if number == signal.SIGKILL:
        return found
    if any((place / "tmp").iterdir()):
        found.append("a temporary file")
    if name == "profile" and (place / "profiles").exists():
        runs = [run for run in (place / "profiles").iterdir() if run.is_dir() and not run.is_symlink()]
        if any(not (run / "summary.json").exists() for run in runs):
            found.append("a partial run directory")
    if name == "bench":
        left = {path.name for path in place.iterdir()} - {"tmp", "saved.jsonl"}
        found += ["a partial file"] if left else []
    return found


def _answers(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in _TIMED} for row in rows]


def run(moments: int, seed: int) -> tuple[dict[tuple[str, str], Counter[str]], list[str]]:
    """Return exit codes per (command, signal), and a line per moment at which something did not hold."""
    chooser = random.Random(seed)
    codes: dict[tuple[str, str], Counter[str]] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        commands = _Commands(Path(name))
        durations_s: dict[str, float] = {}
        for command in ("generate", "bench", "profile"):
            started_s = time.monotonic()
            process = commands.start(command, Path(name) / command)
            stderr = process.communicate()[1]
            if process.returncode:
                raise SystemExit(f"{command} failed without a signal: {stderr}")
            durations_s[command] = time.monotonic() - started_s
        whole = _answers(Path(name) / "generate" / "answers.jsonl")
        for moment in range(moments):
            command = ("generate", "bench", "profile")[moment % 3]
            number = _SIGNALS[moment // 3 % 3]
            place = Path(name) / f"moment-{moment}"
            wait_s = chooser.uniform(0, durations_s[command])
            process = commands.start(command, place)
            time.sleep(wait_s)
            process.send_signal(number)
            stderr = process.communicate()[1]
            problems = _problems(command, place, number, process.returncode, stderr)
            if command == "generate":
                again = commands.start(command, place)
                complaint = again.communicate()[1]
                if again.returncode:
                    problems.append(f"--resume failed: {complaint}")
                elif _answers(place / "answers.jsonl") != whole:
                    problems.append("other answers after --resume")
            codes.setdefault((command, number.name), Counter())[str(process.returncode)] += 1
            failures += [f"{command}, {number.name} after {wait_s:.2f} s: {problem}" for problem in problems]
            print(f"{moment + 1}/{moments} {command} {number.name}: {problems or 'as it should'}", file=sys.stderr)
    return codes, failures


def main() -> None:
    """Print the table and the failures; exit with 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=100, help="number of signals [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments [default: %(default)s]")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would theirs
    codes, failures = run(arguments.moments, arguments.seed)
    print("| command | signal | exit codes (times) |")
    print("|---|---|---|")
    for (command, number), counted in sorted(codes.items()):
        print(f"| {command} | {number} | {', '.join(f'{code} ({times})' for code, times in sorted(counted.items()))} |")
    print("\n".join(["", f"{len(failures)} of {arguments.moments} moments did not hold", *failures]))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
