"""`generate --ray`: the answers are those of one run, each once, whatever interrupts the job."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import command, roseinfer, succeeds
from ray_environment import with_token

from roseinfer import EngineConfig, SamplingParams
from roseinfer.config import RunConfig
from roseinfer.ray import attempts
from roseinfer.ray.block_stage import BlockStage
from roseinfer.ray.blocks import BlockAnswer, PlacedRequest, blocks
from roseinfer.workload.prompts import PromptForm
from roseinfer.workload.workload_request import WorkloadRequest

NUM_REQUESTS = 200
REQUESTS: list[dict[str, Any]] = [
    {"id": f"r{number}", "prompt": f"number {number}", "max_new_tokens": 12 + number % 9}
    | ({"temperature": 1.0} if number % 3 == 0 else {})
    | ({"prompt": 5} if number % 100 == 50 else {})
    for number in range(NUM_REQUESTS)
]


def without_times(text: str) -> list[dict[str, Any]]:
    rows = map(json.loads, text.splitlines())
    return [{key: value for key, value in row.items() if key not in ("ttft_ms", "e2e_ms")} for row in rows]


def wait_for(what: str, condition: Callable[[], Any], limit_s: float = 240) -> Any:
    ends_s = time.monotonic() + limit_s
    while time.monotonic() < ends_s:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"{what} within {limit_s} s")


def actors() -> list[int]:
    """Return the processes of the cluster's actors, which are descendants of this process."""
    parents: dict[int, int] = {}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if title.startswith(b"ray::MapWorker"):
            found.append(int(entry.name))

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return [pid for pid in found if is_ours(pid)]


@pytest.mark.timeout(600)
def test_a_job_that_is_interrupted_and_loses_an_actor_answers_each_request_once(
    cluster: str, tiny_llama: Path, tmp_path: Path
) -> None:
    requests, plain, folder = tmp_path / "requests.jsonl", tmp_path / "plain.jsonl", tmp_path / "answers"
    requests.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS))
    call = ["generate", "--input", requests, "--model", tiny_llama, "--dtype", "float32", "--seed", 3]
    on_ray = [*call, "--output", f"{folder}/", "--ray", cluster]

    job = subprocess.Popen(command(*on_ray), stderr=subprocess.PIPE, text=True, env=with_token())
    wait_for("a first block is answered", lambda: list(folder.glob("*.jsonl")))
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130, stderr
    left = {path.name: path.read_text() for path in folder.glob("*.jsonl")}
    answered = sum(text.count("\n") for text in left.values())
    assert 0 < answered < NUM_REQUESTS
    assert stderr.splitlines()[-2:] == [
        f"[generate] {folder}/ has {answered} answers: --resume continues",
        "error: interrupted",
    ]
    assert wait_for("the actors end", lambda: not actors())

    refused = roseinfer(*on_ray, environment=with_token())
    assert refused.returncode == 2
    assert "already holds answers: add --resume" in refused.stderr
    job = subprocess.Popen(
        command(*on_ray, "--resume", "--actors", 2), stderr=subprocess.PIPE, text=True, env=with_token()
    )
    wait_for("more blocks are answered", lambda: len(list(folder.glob("*.jsonl"))) > len(left))
    os.kill(actors()[0], signal.SIGKILL)
    _, stderr = job.communicate(timeout=200)
    assert job.returncode == 1, stderr
    assert len(stderr.splitlines()) <= 2 + stderr.count("[progress]"), stderr
    assert all((folder / name).read_text() == text for name, text in left.items())

    roseinfer(*call, "--output", plain)
    merged = tmp_path / "merged.jsonl"
    assert f"{NUM_REQUESTS} answers" in succeeds("merge", folder, "--input", requests, "--output", merged).stderr
    assert without_times(merged.read_text()) == without_times(plain.read_text())


def test_a_file_gets_the_answers_in_the_order_of_requests_in_several_tables(
    cluster: str, tiny_llama: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"prompt": f"number {n}", "max_new_tokens": 20 if n < 4 else None, "stop": ["q"]} for n in range(24)]
    folder = tmp_path / "requests"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"prompt": f"first {n}"}) + "\n" for n in range(8)))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    call = ["generate", "--input", f"{folder}/*", "--model", tiny_llama, "--dtype", "float32", "--max-new-tokens", 6]
    succeeds(*call, "--output", tmp_path / "plain.jsonl")
    done = roseinfer(*call, "--output", tmp_path / "ray.jsonl", "--ray", cluster, "--json", environment=with_token())
    assert done.returncode == 0, done.stderr
    texts = [(tmp_path / name).read_text() for name in ("ray.jsonl", "plain.jsonl")]
    assert without_times(texts[0]) == without_times(texts[1])
    assert [json.loads(line)["id"] for line in texts[0].splitlines()] == list(range(1, 33))
    document = json.loads(done.stdout)
    assert document["statistics"]["completion_tokens"] == sum(
        len(json.loads(line)["token_ids"]) for line in texts[0].splitlines()
    )


def test_a_block_that_killed_its_actor_three_times_is_the_failure_of_the_job(cluster: str, tiny_llama: Path) -> None:
    engine = EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu")
    config = RunConfig(engine=engine, sampling=SamplingParams(max_new_tokens=2))
    requests = [WorkloadRequest(id=n, prompt="x", params=config.sampling) for n in range(8)]
    first, second = blocks([PlacedRequest(n + 100, request) for n, request in enumerate(requests)], 4)

    async def run() -> list[BlockAnswer]:
        lost = [attempts.BatchAttempts("").attempt(str(second.number), "") for _ in range(attempts.MAX_DEATHS)]
        for each in lost:
            await each.__aenter__()  # and then the process dies
        stage = BlockStage(config, PromptForm())
        rows = [[row async for row in stage({"block": [pickle.dumps(block)]})] for block in (first, second, first)]
        return [pickle.loads(row["answer"][0]) for [row] in rows]

    whole, failed, again = asyncio.run(run())
    assert (whole.answers, again.answers, whole.failure, again.failure) == (4, 4, None, None)
    assert failed.failure is not None
    assert "block 1 (requests 105 to 108) killed the process of an actor 3 times" in str(failed.failure.error())


def test_an_engine_that_cannot_be_built_in_an_actor_is_one_line(cluster: str, tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"prompt": "one"}\n')
    call = ["generate", "--input", file, "--model", tiny_llama, "--ray", cluster]
    done = roseinfer(*call, "--system", "Be brief.", environment=with_token())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "no chat template" in done.stderr
    done = roseinfer(*call, "--actors", 99, environment=with_token())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "need 99 CPUs, but the Ray cluster has 2: lower --actors" in done.stderr
