"""The types of the tokens in a GGUF file's vocabulary, and which of them end a completion."""

from collections.abc import Mapping
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Token types of the GGUF specification."""

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

_EOS_NAMES = frozenset(
    (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[e~[",
        # Padding, repository and file marks of fill-in-the-middle models.
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
    )
)
"""Tokens that end a completion wherever a vocabulary has them: `special_eog_ids` in llama.cpp's llama-vocab.cpp.

A GGUF file names one EOS token, but a chat model may also end with another: Qwen's with <|endoftext|>, for instance.
"""

_HARMONY = ({"<|return|>", "<|call|>", "<|end|>"}, {"<|calls|>", "<|flush|>", "<|end|>"})
"""Vocabularies in which <|end|> ends a message of a turn, and another token ends the turn."""

_WITH_PLAIN_S = ("<|tool_response>", "<|plamo:eos|>")
"""Tokens of vocabularies in which </s> is the strike-through mark of HTML."""


def eos_token_ids(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Return the tokens that end a completion: those that a GGUF file's metadata names, and those known by name."""
    ids = (metadata.get(f"tokenizer.ggml.{key}") for key in _EOS_KEYS)
    named = frozenset(token_id for token_id in ids if token_id is not None)
    return named | frozenset(_known_by_name(metadata.get("tokenizer.ggml.tokens") or []))


def token_types(metadata: Mapping[str, Any]) -> list[int]:
    """Return the type of each token. A token that is known to end a completion is a control token."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types = list(metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens))
    for token_id in _known_by_name(tokens):
        if token_id < len(types):  # a list of another length is refused later
            types[token_id] = CONTROL
    return types


def _known_by_name(tokens: list[str]) -> list[int]:
    names = set(_EOS_NAMES.intersection(tokens))
    if any(harmony <= names for harmony in _HARMONY):
        names.discard("<|end|>")
    if not set(_WITH_PLAIN_S).isdisjoint(tokens):
        names.discard("</s>")
    return [token_id for token_id, token in enumerate(tokens) if token in names]
