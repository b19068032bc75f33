"""From the way vocabularies spell their tokens to the bytes the tokens stand for."""

SENTENCEPIECE_SPACE = "\u2581"


def byte_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE spells the 256 bytes: character -> byte.

    Printable characters of Latin-1 stand for themselves; the others are numbered from U+0100 on. (GPT-2's encoder.)
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = byte_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary. A token in other characters is text as it stands."""
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()


def sentencepiece_bytes(token: str) -> bytes:
    """The bytes of a SentencePiece token: `<0x0A>` is one byte, U+2581 is a space, the rest is text."""
    byte = byte_fallback_value(token)
    return bytes([byte]) if byte is not None else token.replace(SENTENCEPIECE_SPACE, " ").encode()


def byte_fallback_value(token: str) -> int | None:
    """The byte that a SentencePiece byte token such as `<0x0A>` stands for; None for any other token."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def join_bytes(pieces: list[bytes], *, strip_leading_space: bool) -> str:
    """Tokens' bytes as text: what `decode` returns where tokens have bytes."""
    text = b"".join(pieces).decode("utf-8", "replace")
    return text.removeprefix(" ") if strip_leading_space else text
