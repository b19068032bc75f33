"""Drawing tokens from logits that may be divided among ranks."""

from torch import Tensor

from roseinfer.models.causal_lm import CausalLM
from roseinfer.sampling.sampler import SamplingBatch, sample


def draw(model: CausalLM, logits: Tensor, batch: SamplingBatch) -> Tensor:
    """Draw token ids [rows], int64, from `CausalLM.rank_logits`. All ranks draw the same.

    Greedy rows exchange the largest logit of each rank; others gather all logits.
    """
    if model.ranks is not None and batch.all_greedy and batch.changes is None:
        first, stop = model.rank_tokens
        return model.ranks.argmax(logits[:, : stop - first], first)
    return sample(model.gathered(logits), batch)
