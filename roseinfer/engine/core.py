"""Everything that the modes of one engine share: model, cache, text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import EngineConfig
from roseinfer.engine.runner import Runner
from roseinfer.errors import UsageError
from roseinfer.models.config import ModelConfig
from roseinfer.text.chat import ChatTemplate
from roseinfer.text.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, str]
"""One turn of a chat: role and content."""

Prompt: TypeAlias = str | Sequence[int] | Sequence[Message]
"""Text as it is, token ids, or a chat for the model's template."""


@dataclass(frozen=True)
class EngineCore:
    """A loaded model and what it needs to run requests."""

    config: EngineConfig
    model_config: ModelConfig
    model_name: str
    num_parameters: int
    runner: Runner
    pool: BlockPool
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    eos_token_ids: frozenset[int]
    max_model_len: int

    @property
    def dtype_name(self) -> str:
        """Of weights, activations and KV cache."""
        return str(self.runner.cache.data.dtype).removeprefix("torch.")

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. Raises UsageError for one that is empty or has ids outside the vocabulary."""
        if isinstance(prompt, str):
            token_ids = self.tokenizer.encode(prompt)
        elif prompt and isinstance(prompt[0], Mapping):
            token_ids = self._encode_chat([turn for turn in prompt if isinstance(turn, Mapping)])
        else:
            token_ids = [token_id for token_id in prompt if isinstance(token_id, int)]
        if not token_ids and self.tokenizer.bos_token_id is not None:
            token_ids = [self.tokenizer.bos_token_id]
        if not token_ids:
            raise UsageError("the prompt is empty, and this model has no token that begins a text: give it some text")
        vocab_size = self.model_config.vocab_size
        if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]:
            raise UsageError(f"token id {wrong[0]} is outside the model's vocabulary of {vocab_size}")
        return token_ids

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if self.chat_template is None:
            raise UsageError(f"{self.model_name} has no chat template: give the prompt as text")
        return self.tokenizer.encode(self.chat_template.render(messages), allow_special=True)
