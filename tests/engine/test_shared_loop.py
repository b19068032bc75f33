"""Calls of one engine from several threads and from asyncio: each text is that of the call alone, and nothing leaks."""

import asyncio
import gc
import multiprocessing
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine import shared_loop
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError, UsageError

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    """An engine whose KV cache holds 24 blocks, so that concurrent calls preempt each other."""
    memory = str(25 * 4 * 512)
    config = EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", block_size=4, kv_cache_memory=memory)
    return build_engine(config)


@pytest.fixture(autouse=True)
def no_block_is_lost(engine: Engine) -> Iterator[None]:
    """Check after each test that no call is left, and that every block is free."""
    yield
    gc.collect()
    engine.generate("a", params(1))  # handles what a closed stream has left in the inbox
    assert engine.pool.num_free == engine.pool.num_blocks
    assert engine._loop._scheduler is None


def params(max_new_tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=max_new_tokens, **{"stop_on_eos": False, **more})


Answer = list[tuple[int, int, list[int], str]]


def answer(engine: Engine, prompts: list[str], settings: SamplingParams) -> Answer:
    return [
        (output.request_id, output.sample_index, output.token_ids, output.text)
        for output in engine.generate(prompts, settings)
    ]


def jobs(count: int, seed: int) -> list[tuple[list[str], SamplingParams]]:
    chooser = random.Random(seed)
    return [
        (
            [
                chooser.choice(["a", "some words", "many more words " * 2]) + str(place)
                for _ in range(chooser.choice((1, 2)))
            ],
            params(
                chooser.randrange(1, 9),
                temperature=chooser.choice((0.0, 1.0)),
                n=chooser.choice((1, 1, 2)),
                stop=chooser.choice(((), ("e",))),
            ),
        )
        for place in range(count)
    ]


def test_calls_of_eight_threads_get_the_texts_that_they_get_alone(engine: Engine) -> None:
    calls = jobs(24, seed=1)
    alone = [answer(engine, *call) for call in calls]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda call: answer(engine, *call), calls)) == alone


def test_calls_of_threads_run_as_one_batch_on_no_callers_thread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that is interrupted in a step would harm the others."""
    leaders_of_several: set[str] = set()
    launch = type(engine.runner).launch
    barrier = threading.Barrier(4)

    def counted(runner: Any, batch: Any) -> Any:
        if len(batch.rows) > 1:
            leaders_of_several.add(threading.current_thread().name)
        return launch(runner, batch)

    def call(_: int) -> None:
        barrier.wait()
        engine.generate("a", params(40))

    monkeypatch.setattr(type(engine.runner), "launch", counted)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(call, range(4)))
    assert leaders_of_several == {"roseinfer-engine"}


def test_streams_of_threads_give_the_tokens_that_they_give_alone(engine: Engine) -> None:
    calls = jobs(8, seed=2)

    def events(call: tuple[list[str], SamplingParams]) -> list[Any]:
        found = [(event.request_id, event.sample_index, event.token_id, event.text) for event in engine.stream(*call)]
        return sorted(found, key=lambda event: event[:2])

    alone = [events(call) for call in calls]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(events, calls)) == alone


def test_asyncio_calls_get_the_texts_that_they_get_alone(engine: Engine) -> None:
    calls = jobs(12, seed=3)
    alone = [answer(engine, *call) for call in calls]

    async def one(prompts: list[str], settings: SamplingParams) -> Answer:
        if len(prompts) == 1 and settings.n == 1:
            events = [event async for event in engine.stream_async(prompts, settings)]
            return [(0, 0, [event.token_id for event in events], "".join(event.text for event in events))]
        outputs = await engine.generate_async(prompts, settings)
        return [(output.request_id, output.sample_index, output.token_ids, output.text) for output in outputs]

    async def all_of_them() -> list[Answer]:
        return list(await asyncio.gather(*(one(*call) for call in calls)))

    assert asyncio.run(all_of_them()) == alone


def test_cancelled_tasks_and_left_streams_give_their_blocks_back(engine: Engine) -> None:
    chooser = random.Random(4)
    kept = jobs(1, seed=5)[0]
    expected = answer(engine, *kept)

    async def cancelled() -> None:
        task = asyncio.create_task(engine.generate_async("some words", params(60, n=2)))
        await asyncio.sleep(chooser.uniform(0, 0.01))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def left() -> None:
        number = chooser.randrange(4)
        async for _ in engine.stream_async("some words", params(60)):
            if (number := number - 1) < 0:
                break

    async def check() -> None:
        for _ in range(4):
            actions = [chooser.choice((cancelled, left))() for _ in range(5)]
            _, *_ = await asyncio.gather(engine.generate_async(*kept), *actions)
        outputs = await engine.generate_async(*kept)
        assert [(o.request_id, o.sample_index, o.token_ids, o.text) for o in outputs] == expected

    asyncio.run(check())


def test_threads_that_leave_their_streams_harm_no_other_call(engine: Engine) -> None:
    call = jobs(1, seed=6)[0]
    expected = answer(engine, *call)

    def consume(number: int) -> None:
        for _ in engine.stream("some words", params(40, n=2)):
            if (number := number - 1) < 0:
                raise ZeroDivisionError

    def fails(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            consume(number)

    with ThreadPoolExecutor(6) as threads:
        failing = [threads.submit(fails, number) for number in range(9)]
        answers = [threads.submit(answer, engine, *call) for _ in range(9)]
        assert [one.result() for one in answers] == [expected] * 9
        assert [one.result() for one in failing] == [None] * 9


def test_a_stream_that_is_never_read_gives_its_blocks_back(engine: Engine) -> None:
    engine.stream("some words", params(40))


def test_a_refused_call_among_others_fails_alone(engine: Engine) -> None:
    call = jobs(1, seed=7)[0]
    expected = answer(engine, *call)

    def refused(_: int) -> None:
        with pytest.raises(UsageError, match="context is 128 tokens"):
            engine.generate(["a", "x" * 128, "b"], params(4))

    with ThreadPoolExecutor(4) as threads:
        refusals = threads.map(refused, range(8))
        assert list(threads.map(lambda _: answer(engine, *call), range(8))) == [expected] * 8
        list(refusals)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_step_that_fails_ends_its_calls_and_not_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_alone: bool
) -> None:
    step = Scheduler.step
    is_broken = threading.Event()

    def broken(scheduler: Scheduler, *arguments: Any) -> Any:
        if is_broken.is_set():
            raise RoseinferError("no memory for a step")
        return step(scheduler, *arguments)

    def fails(_: int) -> None:
        with pytest.raises(RoseinferError, match=r"^no memory for a step$"):
            engine.generate("some words", params(30))

    monkeypatch.setattr(Scheduler, "step", broken)
    is_broken.set()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(fails, range(1 if is_alone else 6)))
    is_broken.clear()
    assert len(engine.generate("some words", params(3))) == 1


def test_ctrl_c_in_a_step_aborts_the_call_of_its_own_thread(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = type(engine.runner).launch
    launches = 0

    def interrupted(runner: Any, batch: Any) -> Any:
        nonlocal launches
        launches += 1
        if launches == 3:
            raise KeyboardInterrupt
        return launch(runner, batch)

    monkeypatch.setattr(type(engine.runner), "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate("some words", params(30))
    assert engine.pool.num_free == engine.pool.num_blocks


def test_the_driver_thread_ends_when_no_call_comes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_loop, "_PARKED_S", 0.01)
    asyncio.run(engine.generate_async("a", params(3)))
    driver = engine._loop._driver
    if driver is not None:
        driver.join(10)
    assert engine._loop._driver is None
    assert len(asyncio.run(engine.generate_async("a", params(3)))[0].token_ids) == 3


def test_one_thread_computes_on_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler of the calling thread sees the steps."""
    launch = type(engine.runner).launch
    leaders: set[int] = set()

    def noted(runner: Any, batch: Any) -> Any:
        leaders.add(threading.get_ident())
        return launch(runner, batch)

    monkeypatch.setattr(type(engine.runner), "launch", noted)
    engine.generate("a", params(3))
    list(engine.stream("a", params(3)))
    assert leaders == {threading.get_ident()}


def test_a_parked_driver_holds_no_engine(tiny_llama: Path) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), device="cpu"))
    asyncio.run(engine.generate_async("a", params(2)))
    model = weakref.ref(engine.runner)
    del engine
    gc.collect()
    assert model() is None


def test_schedulers_of_two_threads_take_turns(engine: Engine) -> None:
    def run(_: int) -> list[str]:
        scheduler = engine.scheduler("online")
        for _ in range(2):
            scheduler.submit("ab", params(5))
        return [output.text for output in scheduler.run()]

    expected = run(0)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(run, range(8))) == [expected] * 8


def _use(call: Callable[[], object], answers: Any) -> None:
    try:
        call()
    except UsageError as error:
        answers.send(str(error))
    else:
        answers.send("used")
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("way", ["generate", "stream", "scheduler"])
def test_use_after_a_fork_is_refused(engine: Engine, way: str) -> None:
    calls = {
        "generate": lambda: engine.generate("a"),
        "stream": lambda: engine.stream("a"),
        "scheduler": lambda: engine.scheduler("online").submit("a"),
    }
    context = multiprocessing.get_context("fork")
    answers, child_end = context.Pipe(duplex=False)
    child = context.Process(target=_use, args=(calls[way], child_end))
    child.start()
    assert answers.poll(30)
    assert answers.recv() == (
        f"the engine belongs to process {os.getpid()}, and a fork of that process cannot use it: "
        'call build_engine in this process, and start processes by the method "spawn"'
    )
    child.join()
