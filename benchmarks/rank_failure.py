"""Kill a rank at some moments of a run on GPUs, and time how long the error takes.

    python -m benchmarks.rank_failure --moments capture prefill decode idle leader

Each moment is a process of its own, which kills its rank 1; at `leader`, rank 0 itself is killed. Prints one line of
JSON per moment: the seconds from the kill to the error, the error, and what is left afterwards: processes of ranks, and
files in /dev/shm.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.errors import RoseinferError

_AFTER_S = {"capture": 0.05, "prefill": 0.3, "decode": 3.0, "leader": 3.0}
"""Seconds after the call in which a process is killed: graphs are captured first."""

_END_S = 10.0
"""Maximum seconds in which everything must have ended."""


def main() -> None:
    """Run all moments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", nargs="+", default=["capture", "prefill", "decode", "idle", "leader"])
    parser.add_argument("--model", default="qwen3-0.6b")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        _run(options.moments[0], options)
        return
    for moment in options.moments:
        print(json.dumps({"moment": moment} | _watched(moment)), flush=True)


def _watched(moment: str) -> dict[str, object]:
    """Run a moment in another process, and look for what it leaves."""
    before = set(Path("/dev/shm").iterdir())
    command = [sys.executable, "-m", "benchmarks.rank_failure", *sys.argv[1:], "--moments", moment, "--run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = process.communicate()
    ended_s = time.perf_counter()
    lines = out.splitlines()
    ids = [int(word) for word in lines[0].split()] if lines else []
    while any(map(_runs, ids)) and time.perf_counter() < ended_s + _END_S:
        time.sleep(0.05)
    return {
        **(json.loads(lines[1]) if len(lines) > 1 else {}),
        "exit_code": process.returncode,
        "stderr": errors.strip().splitlines()[-3:],
        "ranks_end_s": round(time.perf_counter() - ended_s, 2),
        "processes_left": [process_id for process_id in ids if _runs(process_id)],
        "files_left": sorted(path.name for path in set(Path("/dev/shm").iterdir()) - before),
    }


def _runs(process_id: int) -> bool:
    return Path(f"/proc/{process_id}/exe").exists()  # a process that has ended and that nobody waits for has no program


def _run(moment: str, options: argparse.Namespace) -> None:
    engine = build_engine(
        EngineConfig(
            model=options.model,
            load_format="dummy",
            device=options.device,
            tensor_parallel=options.ranks,
            max_batch_size=8,
            kv_cache_memory="1GiB",
        )
    )
    assert isinstance(engine.runner, LeadingRunner)
    process_ids = engine.runner.team.process_ids
    print(*process_ids, flush=True)
    killed_s: list[float] = []

    def kill() -> None:
        killed_s.append(time.perf_counter())
        os.kill(os.getpid() if moment == "leader" else process_ids[0], signal.SIGKILL)

    if moment == "idle":
        engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=8))
        kill()
    else:
        threading.Timer(_AFTER_S[moment], kill).start()
    error = ""
    long = SamplingParams(max_new_tokens=1 if moment == "prefill" else 12_000, stop_on_eos=False)
    deadline_s = time.perf_counter() + 30
    try:
        while time.perf_counter() < deadline_s:
            engine.generate([list(range(1, 4000))] * 8 if moment == "prefill" else [[1, 2, 3]] * 8, long)
    except RoseinferError as raised:
        error = str(raised)
    seconds = time.perf_counter() - killed_s[0]
    engine.close()
    print(json.dumps({"seconds": round(seconds, 2), "error": error}), flush=True)


if __name__ == "__main__":
    main()
