"""The runner of rank 0, which sends every step to the other ranks before it launches its own part."""

import weakref

import msgspec
import torch

from roseinfer.attention.backend import AttentionBackend
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.distributed.rank_channel import Kind
from roseinfer.distributed.rank_team import RankTeam, release
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.engine.launch import Launch, checksum_with
from roseinfer.engine.runner import Runner
from roseinfer.engine.step_batch import StepBatch
from roseinfer.errors import RoseinferError
from roseinfer.models.causal_lm import CausalLM


class LeadingRunner(Runner):
    """Launches every step on all ranks, which draw the same tokens. Returns those of rank 0."""

    def __init__(
        self,
        model: CausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        device: torch.device,
        graphs: StepGraphs | None,
        team: RankTeam,
    ) -> None:
        super().__init__(model, cache, attention, device, graphs, must_capture=True)
        self.team = team
        self._checksum = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._release = weakref.finalize(self, release, team, device.type)

    def launch(self, batch: StepBatch) -> Launch:
        """Launch a step on all ranks. Raises RoseinferError, naming the rank, if one fails."""
        self._check_open()
        with self.team.watching():
            self.team.send(Kind.STEP, self._encoder.encode(batch))
            launch = super().launch(batch)
        launch.guard = self.team.watching
        launch.on_tokens = self._count
        return launch

    def _count(self, tokens: list[int]) -> None:
        self._checksum = checksum_with(self._checksum, tokens)

    def drew_the_same(self) -> bool:
        """Return whether all ranks have drawn the same tokens so far. Call it while no launch is unread."""
        self._check_open()
        self.team.call("checksum")
        return all(checksum == self._checksum for checksum in self.team.answers())

    def capture_missing(self) -> None:
        """Capture the graphs that batches needed and that do not exist yet, on all ranks."""
        self._check_open()
        with self.team.watching():
            self.team.call("capture_missing")
            super().capture_missing()
            self.team.answers()

    def close(self) -> None:
        """Let the other ranks drop their parts of the model. The runner cannot launch steps afterwards."""
        self._release()

    def _check_open(self) -> None:
        if not self._release.alive:
            raise RoseinferError("the engine is closed: build it again")
