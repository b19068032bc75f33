"""A rank's process whose memory ends in its third step; `test_rank_failures.py` starts it in place of the real one."""

from roseinfer.distributed.rank_group import RankGroup
from roseinfer.engine import rank_process
from roseinfer.engine.factory import build_rank
from roseinfer.engine.launch import Launch
from roseinfer.engine.runner import Runner
from roseinfer.engine.step_batch import StepBatch


def build_failing_rank(payload: bytes, group: RankGroup) -> Runner:
    """Build the rank's runner, whose third launch has no memory."""
    runner = build_rank(payload, group)
    launch, launched = runner.launch, []

    def failing(batch: StepBatch) -> Launch:
        launched.append(batch)
        if len(launched) == 3:
            raise MemoryError
        return launch(batch)

    runner.launch = failing  # type: ignore[method-assign]
    return runner


if __name__ == "__main__":
    rank_process.build_rank = build_failing_rank
    rank_process.main()
