"""Reading a tokenizer.model of SentencePiece.

Format: a protocol buffer, https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from roseinfer.errors import ModelError
from roseinfer.text.sentencepiece_vocabulary import SentencePieces

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
"""Fields of ModelProto."""
_ALGORITHMS: dict[int, Literal["bpe", "unigram"]] = {1: "unigram", 2: "bpe"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""

_Value = int | bytes


class SentencePieceFile(msgspec.Struct, frozen=True):
    """The content of a tokenizer.model."""

    vocabulary: SentencePieces
    bos_id: int | None
    eos_id: int | None


def is_sentencepiece(path: Path) -> bool:
    """True if a file begins with a piece, as a SentencePiece model does. Llama 3's tokenizer.model is a rank file."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\n"
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """Read a SentencePiece model. Raises ModelError for a file that is none, and for an unsupported algorithm."""
    try:
        return _model(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(f"{path} is not a SentencePiece model ({error}): download it again") from None


def _model(path: Path) -> SentencePieceFile:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, _Value] = {}
    normalizer: dict[int, _Value] = {}
    for field, value in _fields(path.read_bytes()):
        if field == _PIECES:
            piece = dict(_fields(_bytes(value)))
            pieces.append(_bytes(piece.get(1, b"")).decode())
            scores.append(_float(piece.get(2, bytes(4))))
            types.append(_int(piece.get(3, 1)))
        elif field in (_TRAINER, _NORMALIZER):
            (trainer if field == _TRAINER else normalizer).update(_fields(_bytes(value)))
    algorithm = _ALGORITHMS.get(_int(trainer.get(3, 1)))
    if algorithm is None:
        raise ModelError(f"{path} splits words or characters, which is not supported: use a BPE or Unigram model")
    if trainer.get(24):
        raise ModelError(f"{path} puts spaces behind words, which is not supported: use a tokenizer.json")
    vocabulary = SentencePieces(
        pieces=pieces,
        scores=scores,
        types=types,
        algorithm=algorithm,
        unknown_id=_id(trainer.get(40, 0), pieces),
        adds_space=bool(normalizer.get(3, 1)),
        squeezes_spaces=bool(normalizer.get(4, 1)),
        charsmap=_bytes(normalizer.get(2, b"")),
    )
    return SentencePieceFile(vocabulary, _id(trainer.get(41, 1), pieces), _id(trainer.get(42, 2), pieces))


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Yield (field number, value) of a message: an int of a varint, else the bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if wire_type == _BYTES:
            size, at = _varint(data, at)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, position behind it)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")


def _bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text is expected")
    return value


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a number is expected")
    return value


def _float(value: _Value) -> float:
    number: float = struct.unpack("<f", _bytes(value))[0]
    return number


def _id(value: _Value, pieces: list[str]) -> int | None:
    """Return a token id, or None if it is negative (not defined) or outside of the vocabulary."""
    return number if (number := _int(value)) < len(pieces) else None
