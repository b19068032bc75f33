"""Kill a rank at some moments of a run on GPUs, and time how long the error takes.

    python -m benchmarks.rank_failure --moments decode idle

Prints one line of JSON per moment: the seconds, the error, and whether the rank's process is gone.
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.errors import RoseinferError

_AFTER_S = {"capture": 0.05, "decode": 3.0}
"""Seconds after the call in which rank 1 is killed: graphs are captured first."""


def main() -> None:
    """Run all moments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", nargs="+", default=["capture", "decode", "idle"])
    parser.add_argument("--model", default="qwen3-0.6b")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for moment in options.moments:
        print(json.dumps({"moment": moment} | _killed(moment, options)), flush=True)


def _killed(moment: str, options: argparse.Namespace) -> dict[str, object]:
    engine = build_engine(
        EngineConfig(
            model=options.model,
            load_format="dummy",
            device=options.device,
            tensor_parallel=2,
            max_batch_size=8,
            kv_cache_memory="1GiB",
        )
    )
    assert isinstance(engine.runner, LeadingRunner)
    (process_id,) = engine.runner.team.process_ids
    killed_s: list[float] = []

    def kill() -> None:
        os.kill(process_id, signal.SIGKILL)
        killed_s.append(time.perf_counter())

    if moment == "idle":
        engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=8))
        kill()
    else:
        threading.Timer(_AFTER_S[moment], kill).start()
    error = ""
    try:
        engine.generate([[1, 2, 3]] * 8, SamplingParams(max_new_tokens=12_000, stop_on_eos=False))
    except RoseinferError as raised:
        error = str(raised)
    seconds = time.perf_counter() - killed_s[0]
    engine.close()
    return {"seconds": round(seconds, 2), "error": error, "gone": not Path(f"/proc/{process_id}").exists()}


if __name__ == "__main__":
    main()
