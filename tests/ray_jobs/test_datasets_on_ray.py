"""`GenerateStage` in a dataset of the user's own: answers, and the end of a dataset whose batch kills its actor."""

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.ray import GenerateStage, attempts, stage_options


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
