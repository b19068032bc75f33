"""`generate --ray`: the answers are those of one run, each once, whatever interrupts the job."""

import asyncio
import gc
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
from command import ENVIRONMENT, command, roseinfer, succeeds

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.config import RunConfig
from roseinfer.ray import GenerateStage, attempts, stage_options
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


def with_token() -> dict[str, str]:
    """Return the environment of a command that may use the cluster, whose start set the token."""
    return {**ENVIRONMENT, **{name: value for name, value in os.environ.items() if name.startswith("RAY_")}}


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


def test_a_job_is_measured_and_one_of_its_actors_recorded(cluster: str, tiny_llama: Path, tmp_path: Path) -> None:
    load = ["--model", tiny_llama, "--prompt-length", 8, "--max-new-tokens", 6, "--num-requests", 9, "--json"]
    on_ray = [*load, "--ray", cluster, "--actors", 1]
    done = roseinfer("bench", *on_ray, "--repeats", 2, environment=with_token())
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert (job["requests"], job["completion_tokens"], len(job["actors"])) == (18, 108, 1)
    assert job["actors"][0]["busy_percent"] > 0

    done = roseinfer("profile", *on_ray, "--profile-dir", tmp_path / "profiles", environment=with_token())
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [step["phase"] for step in json.loads((tmp_path / "profiles/latest/manifest.json").read_text())["steps"]]
    assert document["summary"]["trace"]["path"].startswith(document["run_dir"])
    assert document["traces"] == [f"{document['run_dir']}/rank0-cycle0.pt.trace.json.gz"]


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


def test_a_dataset_is_answered_by_actors(cluster: str, tiny_llama: Path) -> None:
    import ray

    config = EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", max_batch_size=4)
    sampling = SamplingParams(max_new_tokens=5)
    prompts = [f"number {number}" for number in range(20)]
    dataset = ray.data.from_items([{"id": number, "prompt": prompt} for number, prompt in enumerate(prompts)])
    rows = dataset.map_batches(GenerateStage, **stage_options(config, sampling, actors=1, batch_size=4)).take_all()
    outputs = build_engine(config).generate(prompts, sampling)
    assert {row["id"]: list(row["token_ids"]) for row in rows} == {n: each.token_ids for n, each in enumerate(outputs)}


def test_a_batch_that_kills_its_actor_time_and_again_ends_the_dataset(
    cluster: str, tiny_llama: Path, tmp_path: Path
) -> None:
    import ray

    deaths = tmp_path / "deaths"

    class Form:  # of this function, so that Ray copies the class to the actors
        def check(self, engine: object) -> None:
            attempts.MAX_DEATHS = 2  # in the actor: each start takes seconds

        def converted(self, prompt: str, engine: object) -> str:
            if prompt == "kills":
                with deaths.open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return prompt

    config = EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", max_batch_size=4)
    options = stage_options(config, SamplingParams(max_new_tokens=2), actors=1, batch_size=2, form=Form())
    rows = [{"id": f"r{number}", "prompt": "kills" if number == 3 else "other"} for number in range(6)]
    dataset = ray.data.from_items(rows, override_num_blocks=3).map_batches(GenerateStage, **options)
    message = "a batch of 2 requests, the first with id 'r2', killed the process of an actor 2 times"
    with pytest.raises(ray.exceptions.RayError, match=message):
        dataset.take_all()
    assert deaths.read_text() == "xx"
    gc.collect()  # a dataset that failed has its actors, and their CPUs, until it is collected


def test_equal_batches_at_the_same_time_are_counted_apart(cluster: str) -> None:
    of_an_actor = attempts.BatchAttempts("")

    async def enter(times: int) -> None:
        if times:
            async with of_an_actor.attempt("equal", ""):
                await enter(times - 1)

    asyncio.run(asyncio.wait_for(enter(2 * attempts.MAX_DEATHS), 60))


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
