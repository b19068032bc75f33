"""A loaded model with its cache and tokenizer: everything that the schedulers of one engine share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Annotated, Any

import msgspec
import torch

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine_lock import EngineLock
from roseinfer.engine.limits import StepLimits
from roseinfer.engine.prompt import Chat, ChatTokens, Message, Prompt, as_chat, is_chat
from roseinfer.engine.row_pool import RowPool
from roseinfer.engine.runner import Runner
from roseinfer.engine.step_times import StepTimes
from roseinfer.errors import UsageError
from roseinfer.model_files import reading
from roseinfer.models.expert_use import ExpertUse
from roseinfer.models.footprint import WeightBytes
from roseinfer.models.model_config import ModelConfig
from roseinfer.native_stderr import without_panic_reports
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.detokenizer import Detokenizer, NewDetokenizer, detokenizers
from roseinfer.text.tokenizer import Tokenizer, encode_parsed

_MAX_TOKEN_CHARACTERS = 256
"""Maximum characters of a token. The longest ones of published vocabularies are 128 blanks."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model, its runner and KV cache, and the text processing that belongs to it."""

    config: EngineConfig
    model_config: ModelConfig
    model_name: str
    num_parameters: int
    runner: Runner
    pool: BlockPool
    tokenizer: Tokenizer | None
    """The model's tokenizer. None: prompts and completions are token ids only."""
    chat_template: ChatTemplate | None
    eos_token_ids: frozenset[int]
    max_model_len: int
    limits: StepLimits
    """Maximum requests and tokens per step: those of `config`, or the device's where `config` leaves them open."""
    max_decode_steps: int = 1
    """Maximum tokens per request that one launch decodes."""
    overlap: bool = False
    """True: launch each step before the tokens of the previous step are read."""
    default_params: SamplingParams = field(default_factory=SamplingParams)
    """Sampling settings of requests without any: those that the model's own files recommend."""
    rows: RowPool = field(default_factory=RowPool)
    """Row numbers of the runner, shared by all schedulers of the engine."""
    step_times: StepTimes = field(default_factory=StepTimes)
    """Times of the engine's steps, which its schedulers measure and plan by."""
    expert_use: ExpertUse = field(default_factory=ExpertUse)
    """How often the model's routers choose each expert, once `workload.expert_choices` has counted it."""
    lock: EngineLock = field(default_factory=EngineLock)
    """Held by the thread that uses the runner, the pool or the rows."""

    def __repr__(self) -> str:
        """Return one line with model, size, dtype and device."""
        size = f"{self.num_parameters / 1e6:,.1f} M parameters"
        return f"{type(self).__name__}({self.model_name!r}, {size}, {self.dtype_name} on {self.runner.device})"

    @property
    def rank_config(self) -> ModelConfig:
        """The part of the model that one rank computes; `model_config` if the engine has no other ranks."""
        return self.model_config if self.config.tensor_parallel == 1 else self.runner.model.config

    @cached_property
    def weight_bytes(self) -> WeightBytes:
        """Bytes of the weights in one rank's memory, in quantized form where they are quantized."""
        return WeightBytes.of(self.runner.model)

    @cached_property
    def new_detokenizer(self) -> NewDetokenizer:
        """Factory of detokenizers, one per completion. All of them share one table of the vocabulary."""
        return detokenizers(self.tokenizer)

    def detokenizer_after(self, token_ids: Sequence[int]) -> Detokenizer:
        """Return a detokenizer for a completion of a prompt that `encode` returned.

        The answer to a chat is a text of its own. The completion of any other prompt continues the prompt's text.
        """
        return self.new_detokenizer(() if isinstance(token_ids, ChatTokens) else token_ids)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of activations, KV cache and weights that are not quantized."""
        return self.runner.cache.data.dtype

    @property
    def dtype_name(self) -> str:
        """Name of `dtype` without the module, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def encode(self, prompt: Prompt, *, parse_special: bool = False) -> list[int]:
        """Return the token ids of a prompt. An empty prompt becomes the beginning-of-sequence token.

        With `parse_special`, control tokens that a text spells out are recognized, as in a chat that is rendered
        already or in fill-in-the-middle. BOS is added as to any other text, unless the text spells it out.

        Raises UsageError for a value of another type, for token ids outside the vocabulary, for text if the model has
        no tokenizer or its tokenizer fails, and for chat messages if the model has no chat template.
        """
        given: Any = prompt
        if isinstance(prompt, str):
            given = self._tokenized(prompt, encode_parsed if parse_special else _encode_raw)
        elif is_chat(prompt):
            given = self._encode_chat(prompt)
        token_ids = self._token_ids(given)
        if not token_ids and self.tokenizer is not None and self.tokenizer.bos_token_id is not None:
            token_ids = self._token_ids([self.tokenizer.bos_token_id])
        if not token_ids:
            raise UsageError(
                "the prompt is empty, and this model has no beginning-of-sequence token: give at least one token"
            )
        return ChatTokens(token_ids) if isinstance(given, ChatTokens) else token_ids

    def _token_ids(self, given: Any) -> list[int]:
        """Return token ids as a new list of Python integers. Integers of NumPy and torch are accepted.

        Raises UsageError for values of other types, and for token ids outside the vocabulary.
        """
        vocab_size = self.model_config.vocab_size
        try:
            # One pass in C checks the types and the vocabulary, and copies: 15 ns per token. Loads may submit 100,000s
            # of tokens while the device waits.
            return msgspec.convert(given, list[Annotated[int, msgspec.Meta(ge=0, lt=vocab_size)]])
        except msgspec.ValidationError:
            token_ids = _indexes(given)
        if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]:
            raise UsageError(f"token id {wrong[0]} is outside the model's vocabulary of {vocab_size}")
        return token_ids

    def _encode_chat(self, prompt: Sequence[Message] | Chat) -> ChatTokens:
        if self.chat_template is None:
            raise UsageError(f"{self.model_name} has no chat template: give the prompt as text")
        chat = as_chat(prompt)
        text = self.chat_template.render(chat.messages, tools=chat.tools, options=chat.template_options)
        return ChatTokens(self._tokenized(text, _encode_rendered))

    def _tokenized(self, text: str, encode: Callable[[Tokenizer, str], list[int]]) -> list[int]:
        """Return the tokens of a text. Raises UsageError if the library of the tokenizer fails, or panics, at it."""
        tokenizer = self._tokenizer()
        with reading("the prompt", "shorten it, or use another --tokenizer", UsageError), without_panic_reports():
            return encode(tokenizer, self._checked_length(text))

    def _checked_length(self, text: str) -> str:
        """Return the text. Raises UsageError for one that is too long in any vocabulary, before it is tokenized."""
        if len(text) > _MAX_TOKEN_CHARACTERS * self.max_model_len:
            raise UsageError(
                f"the prompt has {len(text):,} characters, far more than the context of {self.max_model_len} tokens "
                "holds: shorten it"
            )
        return text

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(
                f"{self.model_name} has no tokenizer: give prompts as token ids (ids:1,2,3), or name a tokenizer "
                "with --tokenizer"
            )
        return self.tokenizer


def _encode_raw(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text)


def _encode_rendered(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, allow_special=True)


def _indexes(prompt: Any) -> list[int]:
    """Convert token ids to Python integers."""
    try:
        return [index(token_id) for token_id in prompt]
    except TypeError:
        raise UsageError("invalid prompt: give a text, a list of token ids, or a list of chat messages") from None
