"""The experts of a model's sparse layers as plain data: how many, how large, and how tokens choose among them."""

import msgspec

from roseinfer.errors import ModelError

MAX_EXPERTS = 1 << 12
"""Maximum number of experts per layer. A description above it is damaged: the largest published models have 512."""


class ExpertsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Experts of the sparse layers: each token uses the `top_k` of them that the router scores highest."""

    num_experts: int
    top_k: int
    intermediate_size: int
    """Width of one expert."""
    normalized: bool = True
    """Weights of a token's experts add up to 1: a softmax over their scores alone. False: one over all experts."""
    shared_size: int = 0
    """Width of the shared expert, which every token uses; 0: none."""
    shared_gate: bool = False
    """The shared expert's output is multiplied by a sigmoid of a score per token."""
    bias: bool = False
    """Router and experts have biases."""
    dense_layers: tuple[int, ...] = ()
    """Indexes of layers with an ordinary MLP."""

    def __post_init__(self) -> None:
        """Raise ModelError for sizes that contradict each other, and for sizes that no model can have."""
        if not 1 <= self.num_experts <= MAX_EXPERTS:
            raise ModelError(f"{self.num_experts} experts are not supported; supported: 1 to {MAX_EXPERTS}")
        if not 1 <= self.top_k <= self.num_experts:
            raise ModelError(f"a token cannot use {self.top_k} of {self.num_experts} experts")
        if not 1 <= self.intermediate_size <= 1 << 22 or not 0 <= self.shared_size <= 1 << 22:
            raise ModelError(f"experts of width {self.intermediate_size} and {self.shared_size} are not supported")

    def is_sparse(self, layer: int) -> bool:
        """True if the layer has experts, False if it has an ordinary MLP."""
        return layer not in self.dense_layers

    def expected_hits(self, num_tokens: float) -> float:
        """Return the expected number of distinct experts that a layer's tokens use, if all choices are equally likely.

        A router that prefers some experts hits fewer.
        """
        missed = (1.0 - self.top_k / self.num_experts) ** num_tokens
        return self.num_experts * float(1.0 - missed)
