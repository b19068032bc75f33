"""`AnswerLoop`: what becomes of batches when a step fails."""

from pathlib import Path

import pytest

from roseinfer import EngineConfig, SamplingParams, build_engine
from roseinfer.engine.schedulers import Scheduler
from roseinfer.ray.answer_loop import AnswerLoop
from roseinfer.ray.blocks import PlacedRequest
from roseinfer.workload.workload_request import WorkloadRequest


def test_after_a_failed_step_no_batch_waits_forever(tiny_llama: Path) -> None:
    def failing(scheduler: Scheduler) -> None:
        raise MemoryError("no memory is left")

    engine = build_engine(EngineConfig(model=str(tiny_llama), device="cpu"))
    loop = AnswerLoop(engine, "offline", lambda prompt: prompt)
    loop.step = failing
    request = WorkloadRequest(id=1, prompt=[1, 2, 3], params=SamplingParams(max_new_tokens=2))
    batch = [PlacedRequest(0, request)]
    running = loop.submit(batch)
    with pytest.raises(MemoryError):
        running.result(timeout=60)
    later = loop.submit(batch)
    with pytest.raises(MemoryError):
        later.result(timeout=60)
