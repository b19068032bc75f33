"""Random prompts for measurements."""

import numpy as np

from roseinfer.engine.engine import Engine


def random_prompts(engine: Engine, count: int, length: int) -> list[list[int]]:
    """Return prompts of random token ids, different in each call with another count or length."""
    random = np.random.default_rng(count * 100_003 + length)
    return random.integers(0, engine.model_config.vocab_size, (count, length)).tolist()
