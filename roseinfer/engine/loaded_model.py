"""Everything that the modes of one engine share: model, cache, text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import TypeAlias, TypeGuard

import torch

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import EngineConfig
from roseinfer.engine.row_pool import RowPool
from roseinfer.engine.runner import Runner
from roseinfer.errors import UsageError
from roseinfer.models.footprint import WeightBytes
from roseinfer.models.model_config import ModelConfig
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.detokenizer import Detokenizer, detokenizers
from roseinfer.text.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, str]
"""One turn of a chat: role and content."""

Prompt: TypeAlias = str | Sequence[int] | Sequence[Message]
"""Text as it is, token ids, or a chat for the model's template."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model and what it needs to run requests."""

    config: EngineConfig
    model_config: ModelConfig
    model_name: str
    num_parameters: int
    runner: Runner
    pool: BlockPool
    tokenizer: Tokenizer | None
    """None where prompts and completions are token ids."""
    chat_template: ChatTemplate | None
    eos_token_ids: frozenset[int]
    max_model_len: int
    max_decode_steps: int = 1
    """Most tokens a request that one launch decodes."""
    overlap: bool = False
    """True: launch each step before the tokens of the previous step are read."""
    rows: RowPool = field(default_factory=RowPool)
    """Row numbers of the runner, shared by all schedulers of the engine."""

    @cached_property
    def weight_bytes(self) -> WeightBytes:
        """What the weights weigh as they are kept, quantized ones included."""
        return WeightBytes.of(self.runner.model)

    @cached_property
    def new_detokenizer(self) -> Callable[[], Detokenizer]:
        """What makes the detokenizer of each completion; they share what is known of the vocabulary."""
        return detokenizers(self.tokenizer)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and KV cache; quantized weights take fewer bits."""
        return self.runner.cache.data.dtype

    @property
    def dtype_name(self) -> str:
        """`dtype` without its module."""
        return str(self.dtype).removeprefix("torch.")

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; of an empty one, the token that begins a text.

        Raises UsageError for a prompt that is none, that has ids outside the vocabulary, that is text where the model
        has no tokenizer, or a chat where it has no template.
        """
        if isinstance(prompt, str):
            token_ids = self._tokenizer().encode(prompt)
        elif isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
            token_ids = self._encode_chat(prompt)
        else:
            token_ids = _token_ids(prompt)
        if not token_ids and self.tokenizer is not None and self.tokenizer.bos_token_id is not None:
            token_ids = [self.tokenizer.bos_token_id]
        if not token_ids:
            raise UsageError("the prompt is empty, and this model has no token that begins a text: give it something")
        vocab_size = self.model_config.vocab_size
        if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]:
            raise UsageError(f"token id {wrong[0]} is outside the model's vocabulary of {vocab_size}")
        return token_ids

    def _encode_chat(self, turns: Sequence[object]) -> list[int]:
        if self.chat_template is None:
            raise UsageError(f"{self.model_name} has no chat template: give the prompt as text")
        messages = [turn for turn in turns if is_message(turn)]
        if len(messages) < len(turns):
            raise UsageError("a chat is a list of messages, each with a role and a content that are text")
        return self._tokenizer().encode(self.chat_template.render(messages), allow_special=True)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(
                f"{self.model_name} brings no tokenizer: give prompts as token ids (ids:1,2,3), or name a tokenizer "
                "with --tokenizer"
            )
        return self.tokenizer


def is_message(turn: object) -> TypeGuard[Message]:
    """Whether this is one turn of a chat."""
    return isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in ("role", "content"))


def _token_ids(prompt: Sequence[object]) -> list[int]:
    """The ids as Python integers; whatever counts as one, as NumPy's and torch's do, is taken."""
    try:
        return [index(token_id) for token_id in prompt]  # type: ignore[arg-type]
    except TypeError:
        raise UsageError("a prompt is a text, a list of token ids, or a list of messages, and this is none") from None
