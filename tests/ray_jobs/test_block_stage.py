"""The actors of a job, in this process: blocks of the configured workload, recordings, and engines that fail."""

import asyncio
import pickle
from pathlib import Path

import msgspec
import pytest

from roseinfer.config import EngineConfig, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.ray.block_stage import BlockStage
from roseinfer.ray.blocks import Block, BlockAnswer
from roseinfer.workload.prompts import PromptForm


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> RunConfig:
    return RunConfig(
        engine=EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", max_batch_size=4),
        sampling=SamplingParams(max_new_tokens=8, stop_on_eos=False),
        workload=WorkloadConfig(mode="offline", prompt_length=6, num_requests=5),
        profile=ProfileConfig(wait=1, warmup=1, active=2, phase="decode"),
    )


@pytest.fixture(scope="module")
def stage(config: RunConfig) -> BlockStage:
    return BlockStage(config, PromptForm(), warms_up=True)


def answered(stage: BlockStage, *blocks: Block) -> list[BlockAnswer]:
    """Run blocks at once, and return the answer to each."""

    async def one(block: Block) -> BlockAnswer:
        [row] = [row async for row in stage({"block": [pickle.dumps(block)]})]
        return pickle.loads(row["answer"][0])

    async def every() -> list[BlockAnswer]:
        return await asyncio.gather(*map(one, blocks))

    return asyncio.run(every())


def token_ids(answer: BlockAnswer) -> list[list[int]]:
    return [msgspec.json.decode(line)["token_ids"] for line in answer.lines.splitlines()]


def test_passes_of_a_workload_draw_other_prompts_and_the_same_in_every_actor(
    stage: BlockStage, config: RunConfig
) -> None:
    first, second = answered(stage, Block(number=0, drawn=(0, 7)), Block(number=1, drawn=(7, 10)))
    assert (first.answers, first.completion_tokens, first.prompt_tokens, first.place) == (7, 56, 42, 0)
    assert (second.number, second.answers, second.place) == (1, 3, 7)
    drawn = token_ids(first) + token_ids(second)
    assert drawn[:5] != drawn[5:]
    [again] = answered(BlockStage(config, PromptForm()), Block(number=0, drawn=(5, 10)))
    assert token_ids(again) == drawn[5:]


def test_a_block_can_record_steps_and_the_engine_goes_on(stage: BlockStage) -> None:
    recorded, other = answered(stage, Block(number=3, drawn=(0, 6), records=True), Block(number=4, drawn=(6, 12)))
    manifest = msgspec.json.decode(recorded.files["manifest.json"])
    assert manifest["traces"] == ["rank0-cycle0.pt.trace.json.gz"]
    assert [step["phase"] for step in manifest["steps"]] == ["decode", "decode"]
    assert manifest["config"]["engine"]["model"] == manifest["model"]["name"]
    assert recorded.files["rank0-cycle0.pt.trace.json.gz"].startswith(b"\x1f\x8b")
    assert other.files == {}
    assert token_ids(recorded) + token_ids(other) == token_ids(answered(stage, Block(number=5, drawn=(0, 12)))[0])


def test_a_recording_ends_with_the_requests_and_says_what_is_missing(stage: BlockStage, config: RunConfig) -> None:
    short = BlockStage(
        msgspec.structs.replace(config, profile=ProfileConfig(wait=20, warmup=1, active=2)), PromptForm()
    )
    [answer] = answered(short, Block(number=0, drawn=(0, 2), records=True))
    manifest = msgspec.json.decode(answer.files["manifest.json"])
    assert manifest["traces"] == []
    assert "no step was recorded" in manifest["warnings"][0]


def test_an_engine_that_cannot_be_built_is_the_failure_of_each_block(config: RunConfig) -> None:
    engine = msgspec.structs.replace(config.engine, model="/no/such/model")
    [answer] = answered(
        BlockStage(msgspec.structs.replace(config, engine=engine), PromptForm()), Block(number=2, drawn=(0, 1))
    )
    assert answer.number == 2
    assert answer.failure is not None
    assert "/no/such/model" in str(answer.failure.error())
