"""Figures of a job on Ray, from the answers to its blocks: speed per actor and in all, start-up, stragglers."""

from collections.abc import Iterable
from statistics import median

import msgspec

from roseinfer.ray.blocks import BlockAnswer

SCHEMA_VERSION = 1


class ActorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one actor did. Its time runs from its first block to its last answer."""

    actor: str
    """Node and process."""
    startup_s: float
    """Seconds that building the engine took, waiting for the first actor of its node and warming up included."""
    blocks: int
    requests: int
    completion_tokens: int
    elapsed_s: float
    completion_tokens_per_s: float
    busy_percent: float
    """Share of its time in which the engine had a request."""
    waited_s: float
    """Seconds from its last answer to the last answer of the job."""


class JobFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What all actors did. The job's time runs from the first block of any actor to the last answer."""

    actors: list[ActorFigures]
    """Ordered by name."""
    startup_s: float
    """Seconds from the start of the actors to the first block."""
    requests: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float
    completion_tokens_per_s: float
    requests_per_s: float
    straggler: str | None
    """The actor that answered last, if the others waited for more than 5 % of the job's time at the median."""


class RayBench(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `bench --ray --json` prints."""

    schema_version: int = SCHEMA_VERSION
    model: str
    device: str
    """Device of each engine, cpu or cuda."""
    ray_startup_s: float
    """Seconds until the Ray cluster was connected."""
    job: JobFigures
    one_actor: JobFigures | None
    """The same load per actor with one actor; None if the job has only one."""
    scaling_percent: float | None
    """Speed of the job in percent of one actor's speed times the number of actors."""


_STRAGGLING_SHARE = 0.05


def job_figures(answers: Iterable[BlockAnswer], begun_s: float) -> JobFigures:
    """Compute the figures of a job from all of its answers. `begun_s` is when its actors were asked for."""
    by_actor: dict[str, list[BlockAnswer]] = {}
    for answer in answers:
        by_actor.setdefault(answer.actor, []).append(answer)
    done = [answer for each in by_actor.values() for answer in each]
    first_s, last_s = min(each.started_s for each in done), max(each.ended_s for each in done)
    actors = [_actor(name, by_actor[name], last_s) for name in sorted(by_actor)]
    elapsed_s = max(last_s - first_s, 1e-9)
    tokens = sum(each.completion_tokens for each in done)
    requests = sum(each.answers for each in done)
    straggles = len(actors) > 1 and median(each.waited_s for each in actors) > _STRAGGLING_SHARE * elapsed_s
    return JobFigures(
        actors=actors,
        startup_s=first_s - begun_s,
        requests=requests,
        refused=sum(each.refused for each in done),
        prompt_tokens=sum(each.prompt_tokens for each in done),
        completion_tokens=tokens,
        elapsed_s=elapsed_s,
        completion_tokens_per_s=tokens / elapsed_s,
        requests_per_s=requests / elapsed_s,
        straggler=min(actors, key=lambda each: each.waited_s).actor if straggles else None,
    )


def scaling_percent(job: JobFigures, one_actor: JobFigures, actors: int) -> float:
    """Return the job's speed in percent of one actor's speed times the number of actors."""
    return 100 * job.completion_tokens_per_s / (actors * one_actor.completion_tokens_per_s)


def _actor(name: str, answers: list[BlockAnswer], job_ended_s: float) -> ActorFigures:
    first_s, last_s = min(each.started_s for each in answers), max(each.ended_s for each in answers)
    elapsed_s = max(last_s - first_s, 1e-9)
    tokens = sum(each.completion_tokens for each in answers)
    return ActorFigures(
        actor=name,
        startup_s=answers[0].startup_s,
        blocks=len(answers),
        requests=sum(each.answers for each in answers),
        completion_tokens=tokens,
        elapsed_s=elapsed_s,
        completion_tokens_per_s=tokens / elapsed_s,
        busy_percent=100 * (1 - min(max(each.idle_s for each in answers) / elapsed_s, 1.0)),
        waited_s=job_ended_s - last_s,
    )
